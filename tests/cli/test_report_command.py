"""The report command, on what profile truly measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import Warm

from edgeslm.records import REPORT_SCHEMA

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def measured(tiny_model: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two measurements of the tiny model, and its quality card."""
    folder = tmp_path_factory.mktemp("measured")
    model = folder / "tiny.gguf"
    model.write_bytes(tiny_model.read_bytes())
    short = ("-p", "8", "-n", "4", "-r", "3", "--threads", "1", "--idle", "0", "--json")
    for name, depths in (("one", "0,16"), ("two", "0")):
        done = warm.run(["profile", str(model), *short, "--depth", depths])
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.json").write_text(done.stdout)
    return folder


def test_it_shows_results_in_the_terminal(edgeslm: Edgeslm, measured: Path) -> None:
    done = edgeslm("report", measured / "one.json", measured / "two.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("2 results: ")
    for words in ("writing", "reading", "peak RAM (less is better)", "Compared with "):
        assert f"\n{words}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\x1b" not in done.stdout


def test_a_terminal_without_unicode_gets_ascii_bars(measured: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeslm", "report", measured / "one.json"],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"},
    )
    assert b"####" in done.stdout
    assert done.stdout.isascii()


def test_it_writes_a_page_and_markdown(edgeslm: Edgeslm, measured: Path, tmp_path: Path) -> None:
    files = [measured / "one.json", measured / "two.json"]
    done = edgeslm("report", *files, "-o", "report.html", "--title", "Two <runs>")
    assert (done.returncode, done.stdout) == (0, "wrote report.html: 2 results\n"), done.stderr
    assert "<h1>Two &lt;runs&gt;</h1>" in (tmp_path / "report.html").read_text()
    done = edgeslm("report", *files, "-o", "report.md")
    assert done.returncode == 0, done.stderr
    assert "\n## Method\n" in (tmp_path / "report.md").read_text()


def test_it_gives_json(edgeslm: Edgeslm, measured: Path) -> None:
    done = edgeslm("report", measured / "one.json", measured / "two.json", "--json")
    found = json.loads(done.stdout)
    assert found["schema"] == REPORT_SCHEMA
    assert len(found["results"]) == 2
    assert found["baseline"] == found["results"][0]["name"]
    assert [each["what"] for each in found["differences"]] == ["writing", "reading"]
    assert {each["verdict"] for each in found["differences"]} == {"too few runs to tell"}


def test_a_file_without_results_is_an_error_with_a_hint(edgeslm: Edgeslm, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"schema": "something"}')
    done = edgeslm("report", "notes.json")
    assert done.returncode == 2
    assert done.stderr.startswith("error: notes.json: no results")
    assert "hint: " in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "report.pdf"), "report.pdf: no kind of report"),
        (("-o", "nowhere/report.html"), "cannot write nowhere/report.html"),
        (("-o", "report.html", "--json"), "--json goes to stdout, not to a file"),
        (("--baseline", "Q9_9"), "--baseline 'Q9_9': no result is called so"),
    ],
)
def test_wrong_options_are_refused(
    edgeslm: Edgeslm, measured: Path, options: tuple[str, ...], words: str
) -> None:
    done = edgeslm("report", measured / "one.json", measured / "two.json", *options)
    assert done.returncode != 0
    assert done.stderr.startswith(f"error: {words}")
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_implausible_numbers_are_refused(edgeslm: Edgeslm, measured: Path, tmp_path: Path) -> None:
    text = (measured / "two.json").read_text()
    record = json.loads(text)
    record["depths"][0]["decode"]["tokens_per_second"]["samples"][0] = "1e999"
    (tmp_path / "huge.json").write_text(json.dumps(record).replace('"1e999"', "1e999"))
    done = edgeslm("report", "huge.json")
    assert done.returncode == 2, done.stderr
    assert "it holds the number inf" in done.stderr
