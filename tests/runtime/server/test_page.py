"""The page, in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from processes import Served, served

from edgeslm.testing import tiny_gguf

OPTIONS = ("--name", "tiny", "--context", "4096", "--slots", "2", "--allow-grammars")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


expect.set_options(timeout=30_000)  # machines that build and test at once are slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Slow enough for someone to stop it."""
    path = tmp_path_factory.mktemp("model") / "slow.gguf"
    tiny_gguf(path, layers=6, width=256, heads=4, kv_heads=2, feed_forward=1024)
    with served(path, options=OPTIONS) as running:
        yield running


@pytest.fixture
def page(browser: Browser, talkative: Served) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    opened = context.new_page()
    strange: list[str] = []
    opened.on("pageerror", lambda error: strange.append(str(error)))
    opened.on("request", lambda request: _note_foreign(request.url, talkative.address, strange))
    opened.goto(talkative.address)
    expect(opened.locator("#model")).to_have_value("tiny")
    opened.route("**/v1/chat/completions", _never_ending)
    yield opened
    context.close()
    assert not strange


def _never_ending(route: Route) -> None:
    """A model of random weights would end its answer at any moment."""
    body = {**json.loads(route.request.post_data or ""), "grammar": "root ::= [a-z ] root"}
    route.continue_(post_data=json.dumps(body))


def _note_foreign(url: str, own: str, strange: list[str]) -> None:
    if not url.startswith((own, "data:")):
        strange.append(url)


def _ask(page: Page, text: str) -> None:
    page.fill("#input", text)
    page.keyboard.press("Enter")


def _shorten(page: Page, tokens: int) -> None:
    page.click("#settings-open")
    page.fill("#longest", str(tokens))
    page.click("#settings .primary")


def test_ask_and_find_the_conversation_again(page: Page) -> None:
    _shorten(page, 30)
    expect(page.locator("#welcome")).to_be_visible()
    _ask(page, "Hello <b>you</b>")
    expect(page.locator(".user .text")).to_have_text("Hello <b>you</b>")
    expect(page.locator(".assistant .figures")).to_contain_text("30 tokens")
    expect(page.locator(".assistant .figures")).to_contain_text("tokens/s")
    text = page.locator(".assistant .text").inner_text()
    assert text
    page.reload()
    expect(page.locator(".assistant .text")).to_have_text(text)
    expect(page.locator(".conversations .current")).to_contain_text("Hello <b>you</b>")
    page.click("#new")
    expect(page.locator(".assistant")).to_have_count(0)
    page.click(".conversations .open")
    expect(page.locator(".assistant .text")).to_have_text(text)


def test_stop_keeps_what_was_said(page: Page, talkative: Served) -> None:
    _ask(page, "Tell me everything")
    expect(page.locator("#status")).to_contain_text("tokens/s")
    page.click("#stop")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".assistant .tools")).to_be_visible()
    assert page.locator(".assistant .text").inner_text()
    for _ in range(50):
        if talkative.open_requests() == 0:
            break
        page.wait_for_timeout(50)
    assert talkative.open_requests() == 0
    _ask(page, "And now?")
    page.locator(".user").first.get_by_role("button", name="Edit").click()  # not while it answers
    expect(page.locator(".user")).to_have_count(2)
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()


def test_answer_again_and_edit(page: Page) -> None:
    _shorten(page, 12)
    _ask(page, "One")
    expect(page.locator(".figures")).to_have_count(1)
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".assistant")).to_have_count(1)
    _ask(page, "Two")
    expect(page.locator(".figures")).to_have_count(2)
    page.locator(".user").first.get_by_role("button", name="Edit").click()
    expect(page.locator("#input")).to_have_value("One")
    expect(page.locator(".user")).to_have_count(0)


def test_what_is_longer_than_the_context_is_shortened(page: Page) -> None:
    _shorten(page, 5)
    _ask(page, "a long story " * 400)
    expect(page.locator("#notice")).to_contain_text("the context holds 4096")
    page.click("#new")
    for number in range(3):
        _ask(page, f"{number} " + "word " * 380)
        expect(page.locator(".figures")).to_have_count(number + 1, timeout=60_000)
    expect(page.locator("#notice")).to_contain_text("oldest messages were left out")


def test_a_key_is_asked_for(browser: Browser, tiny_model: Path) -> None:
    options = ("--name", "tiny", "--api-key", "secret")
    with served(tiny_model, options=options) as running:
        page = browser.new_page()
        page.goto(running.address)
        expect(page.locator("#settings")).to_be_visible()
        expect(page.locator("#temperature")).to_have_value("0.7")
        page.fill("#key", "secret")
        page.click("#settings .primary")
        expect(page.locator("#model")).to_have_value("tiny")
        expect(page.locator("#machine")).to_contain_text("MB RAM")
        stored = json.loads(page.evaluate("localStorage.getItem('edgeslm.settings')"))
        assert (stored["temperature"], stored["longest"]) == (0.7, None)
        page.close()


def test_on_a_phone(browser: Browser, talkative: Served) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(talkative.address)
    expect(page.locator("#sidebar")).not_to_be_visible()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == PHONE["width"]
    page.tap("#menu")
    expect(page.locator("#new")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).not_to_be_visible()
    for control in page.locator("button:visible, select:visible").all():
        box = control.bounding_box()
        assert box
        assert box["height"] >= 28, control.inner_html()
    context.close()


MARKDOWN = """# Title

Some *light*, **strong** and `code`, 2 * 3 * 4, snake_case_name and <script>alert(1)</script>.

1. one
   - inner **bold**
2. two

> quoted

```python
print("**not bold**")
```

| a | b |
|---|---|
| 1 | `2` |

[safe](https://example.org) [bad](javascript:alert(1)) https://example.org/x.
"""


def test_what_is_repeated_without_end_is_shown(page: Page) -> None:
    for part in (">", "- ", "**", "*_", "`", "|-", "[("):
        count = page.evaluate(
            """async (text) => {
                const { render } = await import("/markdown.js");
                const target = document.createElement("div");
                render(text, target);
                return target.childNodes.length;
            }""",
            part * 5000,
        )
        assert count == 1


def test_two_tabs_keep_both_conversations(page: Page) -> None:
    _shorten(page, 5)
    other = page.context.new_page()
    other.route("**/v1/chat/completions", _never_ending)
    other.goto(page.url)
    for tab, text in ((page, "one"), (other, "two"), (page, "three")):
        tab.click("#new")
        _ask(tab, text)
        expect(tab.locator(".figures")).to_have_count(1)
    page.reload()
    expect(page.locator(".conversations .open")).to_have_text(["three", "two", "one"])


def _second(page: Page) -> Page:
    """Another tab of the same browser."""
    other = page.context.new_page()
    other.route("**/v1/chat/completions", _never_ending)
    other.goto(page.url)
    expect(other.locator("#model")).to_have_value("tiny")
    return other


def _forget(page: Page) -> None:
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#settings-open")
    page.click("#forget")
    page.click("#settings .primary")


def test_what_is_shown_is_not_changed_by_another_tab_while_it_is_answered(page: Page) -> None:
    _ask(page, "aside")
    page.click("#stop")
    page.click("#new")
    _ask(page, "one")
    expect(page.locator("#status")).to_contain_text("tokens/s")
    other = _second(page)
    _shorten(other, 5)
    expect(other.locator(".user")).to_have_text(["You:oneCopyEdit"])
    _ask(other, "two")
    expect(other.locator(".figures")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete aside").click()
    expect(page.locator(".conversations .open")).to_have_text(["one"])
    page.click("#stop")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".user .text")).to_have_text(["one"])
    expect(other.locator(".user .text")).to_have_text(["one"])
    expect(other.locator(".assistant .text")).to_have_text(
        page.locator(".assistant .text").all_inner_texts()
    )


def test_what_is_deleted_is_gone_in_every_tab(page: Page) -> None:
    _shorten(page, 5)
    _ask(page, "one")
    expect(page.locator(".figures")).to_have_count(1)
    before = page.evaluate("localStorage.getItem('edgeslm.conversations')")
    other = _second(page)
    other.click("#new")
    _ask(other, "two")
    expect(other.locator(".figures")).to_have_count(1)
    expect(page.locator(".conversations .open")).to_have_text(["two", "one"])
    _forget(page)
    for tab in (page, other):
        expect(tab.locator(".conversations .open")).to_have_count(0)
    expect(other.locator(".user")).to_have_count(0)
    other.evaluate("(text) => localStorage.setItem('edgeslm.conversations', text)", before)
    for tab, text, left in ((page, "three", ["three"]), (other, "four", ["four", "three"])):
        _ask(tab, text)
        expect(tab.locator(".figures")).to_have_count(1)
        expect(tab.locator(".conversations .open")).to_have_text(left)
    page.reload()
    expect(page.locator(".conversations .open")).to_have_text(["four", "three"])


def test_an_answer_ends_when_another_tab_deletes_its_conversation(page: Page) -> None:
    _ask(page, "one")
    expect(page.locator("#status")).to_contain_text("tokens/s")
    other = _second(page)
    other.once("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Delete one").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#welcome")).to_be_visible()
    page.reload()
    expect(page.locator(".conversations .open")).to_have_count(0)


def test_an_answer_that_cannot_be_had_again_stays(page: Page) -> None:
    _shorten(page, 5)
    _ask(page, "One")
    expect(page.locator(".figures")).to_have_count(1)
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator("#notice")).to_contain_text("does not answer")
    expect(page.locator(".assistant .figures")).to_have_count(1)


def test_markdown_is_shown_and_nothing_is_run(page: Page) -> None:
    result = page.evaluate(
        """async (text) => {
            const { render } = await import("/markdown.js");
            const target = document.createElement("div");
            render(text, target);
            return target.innerHTML;
        }""",
        MARKDOWN,
    )
    for part in (
        "<h1>Title</h1>",
        "<em>light</em>, <strong>strong</strong> and <code>code</code>, 2 * 3 * 4, snake_case_name",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "<ol><li>one<ul><li>inner <strong>bold</strong></li></ul></li><li>two</li></ol>",
        "<blockquote><p>quoted</p></blockquote>",
        '<code class="language-python">print("**not bold**")</code>',
        "<td>1</td><td><code>2</code></td>",
        '<a href="https://example.org" target="_blank" rel="noopener noreferrer">safe</a>',
        "[bad](javascript:alert(1))",
        ">https://example.org/x</a>.</p>",
    ):
        assert part in result, result


@pytest.mark.parametrize("block", ["para", "# Title", "- one", "> quoted", "```\ncode\n```"])
def test_no_block_leaves_a_gap_above_or_below_an_answer(page: Page, block: str) -> None:
    margins = page.evaluate(
        """async (text) => {
            const { render } = await import("/markdown.js");
            const target = document.createElement("div");
            target.className = "text";
            document.body.append(target);
            render(text, target);
            const { marginTop, marginBottom } = getComputedStyle(target.firstElementChild);
            return [marginTop, marginBottom];
        }""",
        block,
    )
    assert margins == ["0px", "0px"]
