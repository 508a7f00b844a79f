"""Rows that people published or gave: all are read, what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import InvalidTarget
from edgeslm.estimate.rows import contributed_rows, published_rows, submission


def test_published_rows_are_as_their_sources_say() -> None:
    rows = [row for row in published_rows() if row.target == "rpi4" and row.label == "Q4_0"]

    (llama,) = (row for row in rows if row.model == "llama-3.2-1b")
    assert (llama.prefill, llama.decode, llama.threads) == (11.35, 4.609, 4)
    assert sum(llama.work.read.values()) == pytest.approx(763_097_216, rel=1e-6)
    (qwen,) = (row for row in rows if row.model == "qwen2.5-0.5b")
    assert sum(qwen.work.read.values()) == 422_782_464 - 151_936 * 896 * 18 // 32


def test_a_submission_is_read_back_as_it_was(tmp_path: Path) -> None:
    rows = tuple(row for row in published_rows() if row.model.startswith("gemma-3-270m"))[:3]
    (tmp_path / "given.json").write_text(json.dumps(submission(rows)))

    assert contributed_rows(tmp_path) == rows


def test_prompts_and_derived_rows_are_as_their_sources_say() -> None:
    rows = published_rows()

    short = [row for row in rows if row.prefill_depth == 64]
    derived = [row for row in rows if "Long context" in row.source]

    assert {row.label for row in short} == {"Q2_K", "Q3_K_M", "Q5_K_M", "Q8_0"}
    assert {row.model for row in short} == {"qwen2.5-0.5b"}
    assert len(derived) == 6
    assert all(row.doubt > 0 for row in derived)


def broken(change: Any) -> str:
    content = submission(published_rows()[:1])
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        broken(lambda content: content.update(schema="edgeslm.submission/9")),
        broken(lambda content: content["rows"][0].pop("target")),
        broken(lambda content: content["rows"][0].update(decode=-1)),
        broken(lambda content: content["rows"][0].update(decode=float("nan"))),
        broken(lambda content: content["rows"][0].update(threads="four")),
        broken(lambda content: content["rows"][0].update(threads=0.5)),
        broken(lambda content: content["rows"][0].update(cores="Cortex-A99")),
        broken(lambda content: content["rows"][0].update(cores=["all"])),
        broken(lambda content: content["rows"][0]["work"].update(read={"Q99": 1})),
        broken(lambda content: content["rows"][0]["work"].update(cached={"x": 1})),
        broken(lambda content: content["rows"][0].update(work=None)),
    ],
)
def test_broken_submissions_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "given.json").write_text(text)

    with pytest.raises(InvalidTarget, match=r"given\.json"):
        contributed_rows(tmp_path)


GOOD = {
    "head": 'schema = "edgeslm.rows/1"\nsource = "x"\n',
    "machine": 'target = "rpi4"\nthreads = 4\n',
    "row": 'model = "tiny", type = "Q4_0", decode = 1',
}


def published(folder: Path, **changed: str) -> Path:
    parts = GOOD | changed
    (folder / "models.toml").write_text(
        'schema = "edgeslm.models/1"\n[tiny]\narchitectures = ["LlamaForCausalLM"]\n'
        "hidden_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4\nvocab_size = 320\n"
    )
    (folder / "some.toml").write_text(
        f"{parts['head']}[[machines]]\n{parts['machine']}rows = [{{ {parts['row']} }}]\n"
    )
    return folder


def test_a_published_row_may_have_another_prompt_and_depth(tmp_path: Path) -> None:
    machine = GOOD["machine"] + "depth = 512\ndoubt = 0.2\n"
    row = GOOD["row"] + ", prompt = 128, prefill = 2"

    (found,) = published_rows(published(tmp_path, machine=machine, row=row))

    assert (found.prefill_depth, found.depth, found.doubt) == (64, 576, 0.2)


@pytest.mark.parametrize(
    ("part", "text", "says"),
    [
        ("row", 'model = "nothing", type = "Q4_0", decode = 1', "nothing"),
        ("row", 'model = "tiny", type = "Q9", decode = 1', "Q9"),
        ("row", 'model = "tiny", decode = 1', "type"),
        ("row", 'model = "tiny", type = "Q4_0", decode = 0', "out of range"),
        ("row", 'model = "tiny", type = "Q4_0", decode = nan', "out of range"),
        ("row", 'model = "tiny", type = "Q4_0", decode = "1"', "no number"),
        ("row", 'model = "tiny", type = "Q4_0", decod = 1', "decod"),
        ("row", 'model = "tiny", type = "Q4_0", decode = 1, prompt = 0', "1 and more"),
        ("machine", 'target = "rpi4"\n', "threads"),
        ("machine", 'target = "rpi4"\nthreads = 0.5\n', "1 and more"),
        ("machine", 'target = "rpi4"\nthreads = 4\ncores = "Cortex-A99"\n', "Cortex-A99"),
        ("machine", "target = 4\nthreads = 4\n", "target"),
        ("machine", 'target = "rpi4"\nthreads = 4\ndepth = -1\n', "out of range"),
        ("head", 'schema = "edgeslm.rows/1"\n', "source"),
        ("head", 'schema = "edgeslm.rows/9"\n', "schema"),
    ],
)
def test_broken_published_files_are_named(tmp_path: Path, part: str, text: str, says: str) -> None:
    with pytest.raises(InvalidTarget, match=rf"some\.toml.*{says}"):
        published_rows(published(tmp_path, **{part: text}))
