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
        broken(lambda content: content["rows"][0]["work"].update(read={"Q99": 1})),
        broken(lambda content: content["rows"][0]["work"].update(cached={"x": 1})),
        broken(lambda content: content["rows"][0].update(work=None)),
    ],
)
def test_broken_submissions_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "given.json").write_text(text)

    with pytest.raises(InvalidTarget, match=r"given\.json"):
        contributed_rows(tmp_path)


def test_a_published_file_with_an_unknown_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text('schema = "edgeslm.models/1"\n')
    (tmp_path / "some.toml").write_text(
        'schema = "edgeslm.rows/1"\nsource = "x"\n[[machines]]\ntarget = "rpi4"\nthreads = 4\n'
        'rows = [{ model = "nothing", type = "Q4_0", decode = 1 }]\n'
    )

    with pytest.raises(InvalidTarget, match=r"some\.toml.*nothing"):
        published_rows(tmp_path)
