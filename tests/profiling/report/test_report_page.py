"""The page: well formed, from nowhere but itself, and harmless whatever names say."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import LAPTOP, measured, result, sustained
from playwright.sync_api import Browser, sync_playwright

from edgeslm.profiling.report.charts import trade_off
from edgeslm.profiling.report.content import Report, build
from edgeslm.profiling.report.drawing import Style
from edgeslm.profiling.report.markup import Markup, plain, tag
from edgeslm.profiling.report.measures import DECODE, MEMORY
from edgeslm.profiling.report.page import page
from edgeslm.profiling.results import FailedCell, Loaded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "\"><script src=//x.example></script><img onerror='a()'>\x1b[31m\x00\u202eabc\ud800&amp;"
VOID = {"meta", "link", "br", "col"}


def full(count: int = 4, label: str = "SmolLM2-135M") -> Report:
    """A report with every section."""
    made = [
        result(
            f"Q{index}_K",
            label=label,
            host=LAPTOP if index % 4 == 3 else result().host,
            writing=30 + 5 * index,
            reading=250 - 9 * index,
            peak=120_000_000 + 20_000_000 * index,
            divergence=0.5 / 2**index,
            joules=measured(0.1 * index + 0.1),
            meter="shelly",
            depths=(0, 512, 1024),
            taints=("other programs took the time of 1.00 cores",) if index == 1 else (),
            sustained=sustained(warm=index == 0) if index < 2 else None,
        )
        for index in range(count)
    ]
    failed = FailedCell("k", label, "F16", "pi5", "killed by the kernel", "less", Path("r.jsonl"))
    return build(Loaded(tuple(made), failures=(failed,), notes=("a.jsonl: half-written",)))


class Checked(HTMLParser):
    """Elements have to be closed in their order, ids to be unique, links to stay in the page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.count: dict[str, int] = {}
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[name] = self.count.get(name, 0) + 1
        assert len({key for key, _ in attributes}) == len(attributes), name
        for key, value in attributes:
            self.attributes.add(key)
            if key == "id":
                self.ids.append(value or "")
            if key in ("href", "src", "action", "data", "xlink:href", "srcset"):
                self.links.append(value or "")
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open and self.open.pop() == name, name

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    text = page(full())
    checked = Checked(text)
    assert len(set(checked.ids)) == len(checked.ids)
    assert all(link.startswith("#") or link == "data:," for link in checked.links)
    assert {link[1:] for link in checked.links if link.startswith("#")} <= set(checked.ids)
    assert not re.search(r"url\(|@import|https?:", text)
    assert checked.count["script"] == checked.count["style"] == 1
    assert "default-src &#x27;none&#x27;" in text


def test_every_table_has_a_caption_and_every_chart_a_description() -> None:
    text = page(full())
    checked = Checked(text)
    assert checked.count["table"] == checked.count["caption"] >= 6
    pictures = re.findall(r"<svg [^>]*>", text)
    assert len(pictures) >= 8
    assert all('role="img"' in each and 'aria-label="' in each for each in pictures)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 30])
def test_any_number_of_results_makes_a_page(count: int) -> None:
    checked = Checked(page(full(count)))
    assert "What lasts" in checked.text


def test_hostile_names_are_text() -> None:
    host = replace(LAPTOP, name=HOSTILE, cpu=HOSTILE, features=(HOSTILE,))
    one = result(HOSTILE, label=HOSTILE, host=host, divergence=0.1, taints=(HOSTILE,))
    other = replace(result("b", divergence=0.2), source=Path(HOSTILE.replace("\x00", "")))
    failed = FailedCell("k", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, Path("r"))
    report = build(
        Loaded((one, other), failures=(failed,), notes=(HOSTILE,)), title=f"{HOSTILE}\nx"
    )
    text = page(report)
    checked = Checked(text)
    assert checked.count["script"] == 1
    assert "img" not in checked.count
    assert not any(name.startswith("on") for name in checked.attributes)
    assert all(link.startswith("#") or link == "data:," for link in checked.links)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", text)
    assert "<script src=//x.example></script>" in checked.text
    text.encode()


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_becomes_markup(words: str, value: str) -> None:
    made = tag("p", words, title=value, class_=None, hidden=True)
    checked = Checked(made)
    assert checked.count == {"p": 1}
    assert checked.attributes == {"title", "hidden"}
    assert checked.text == plain(words)


def test_markup_stays_markup() -> None:
    assert tag("b", Markup("<i>x</i>"), "<") == "<b><i>x</i>&lt;</b>"
    assert tag("br") == "<br>"


def test_who_is_beaten_is_hollow_and_still_has_a_name() -> None:
    report = build(
        Loaded(
            (
                result("good", writing=50, peak=100_000_000),
                result("bad", writing=40, peak=200_000_000),
            )
        )
    )
    chart = trade_off(report.entries, [Style(0, 0), Style(1, 1)], DECODE, MEMORY)
    assert chart is not None
    assert chart.svg.count("mark beaten") == 1
    assert "bad: 40.0 tokens/s, 200 MB" in chart.svg
    assert chart.caption == "Not beaten in both by any other: good."


def test_one_point_is_no_trade_off() -> None:
    report = build(Loaded((result("only"),)))
    assert trade_off(report.entries, [Style(0, 0)], DECODE, MEMORY) is None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("count", [4, 30])
def test_it_fits_the_window_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, width: int, count: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(full(count, label="a-model-with-a-very-long-name-and-no-break" * 3)))
    context = browser.new_context(viewport={"width": width, "height": 844})
    opened = context.new_page()
    strange: list[str] = []
    opened.on("console", lambda message: strange.append(message.text))
    opened.on("pageerror", lambda error: strange.append(str(error)))
    opened.on("request", lambda request: strange.append(request.url))
    opened.goto(path.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert [url for url in strange if url not in (path.as_uri(), "data:,")] == []
    context.close()


def test_columns_can_be_sorted(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(full(4)))
    opened = browser.new_page()
    opened.goto(path.as_uri())
    table = opened.locator("#results table")
    table.get_by_role("button", name="peak RAM").click()
    cells = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
    assert cells == ["180 MB", "160 MB", "140 MB", "120 MB"]
    table.get_by_role("button", name="peak RAM").press("Enter")
    assert table.locator("tbody tr td:nth-child(5)").first.inner_text() == "120 MB"
    assert table.locator("th[aria-sort=ascending]").count() == 1
    opened.close()
