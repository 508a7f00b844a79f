"""Markdown against a golden file, and what a terminal gets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_results import LAPTOP, card, measured, result, sustained
from markdown_it import MarkdownIt

from edgeslm.profiling.report.content import Report, build
from edgeslm.profiling.report.markdown import escape, markdown
from edgeslm.profiling.report.markup import plain
from edgeslm.profiling.report.terminal import cells_wide, terminal
from edgeslm.profiling.results import FailedCell, Loaded

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "x|y\n# <img src=x> [a](http://x.example) `b` \x1b]0;t\x07\x9b31m\u202eabc www.x.example"


def made() -> Report:
    """Small, with something in each section."""
    pair = (
        result("Q8_0", writing=30, divergence=0.002, depths=(0, 512), sustained=sustained()),
        result("Q4_0", writing=45, peak=150_000_000, divergence=0.1, depths=(0, 512)),
        result(
            "Q4_0",
            host=LAPTOP,
            writing=90,
            divergence=0.1,
            joules=measured(0.5),
            meter="rapl",
            taints=("other programs took the time of 1.20 cores during the counted runs",),
        ),
    )
    failed = FailedCell("k", "SmolLM2-135M", "F16", "pi5", "killed", "Free memory.", Path("r"))
    cards = (card("other.gguf", 0.1),)
    return build(Loaded(pair, failures=(failed,), qualities=cards))


@pytest.mark.parametrize("name", ["report.md", "report.txt", "report-narrow.txt"])
def test_golden_files(name: str) -> None:
    text = {
        "report.md": lambda: markdown(made()),
        "report.txt": lambda: terminal(made(), 100),
        "report-narrow.txt": lambda: terminal(made(), 60, blocks=False),
    }[name]()
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def hostile() -> Report:
    host = replace(LAPTOP, name=HOSTILE, cpu=HOSTILE)
    one = result(HOSTILE, label=HOSTILE, host=host, divergence=0.1, taints=(HOSTILE,))
    failed = FailedCell("k", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, Path("r"))
    return build(
        Loaded((one, result("b", divergence=0.2)), failures=(failed,), notes=(HOSTILE,)),
        title=HOSTILE,
    )


def test_hostile_names_stay_text_in_markdown() -> None:
    text = markdown(hostile())
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<img" not in html
    assert "<a " not in html
    assert html.count("<h1>") == 1
    for row in re.findall("<tr>.*?</tr>", html, re.DOTALL):
        assert len(re.findall("<t[hd]", row)) in (2, 3, 5, 6, 7, 9, 10)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_hostile_names_steer_no_terminal() -> None:
    for columns in (40, 100):
        text = terminal(hostile(), columns)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@given(st.text(max_size=80))
@example("__0__")
def test_markdown_shows_a_text_as_it_is(words: str) -> None:
    """In a cell, where our texts stand; spaces at the ends and in a row are HTML's business."""
    source = f"| a |\n|---|\n| x {escape(words)} x |\n"
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
    shown = re.search(r"<td>(.*)</td>", html, re.DOTALL)
    assert shown is not None
    assert "<" not in shown[1]
    text = shown[1]
    for entity, mark in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, mark)
    assert text.split() == f"x {plain(words)} x".split()


def test_a_terminal_that_lacks_blocks_gets_none() -> None:
    text = terminal(made(), 80, blocks=False)
    assert "####" in text
    assert not set("█▏▁") & set(text)


@pytest.mark.parametrize("columns", [1, 40, 60, 100, 500])
def test_lines_fit_the_terminal(columns: int) -> None:
    limit = min(max(columns, 40), 120)
    for line in terminal(made(), columns).splitlines():
        assert cells_wide(line) <= limit or " " not in line.strip(), line


def test_wide_characters_take_two_columns() -> None:
    assert cells_wide("小型模型") == 8
    assert cells_wide("e\u0301") == 1
