from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.cli.markdown import Markdown
from edgeslm.cli.output import terminal_text

SGR = re.compile(r"\x1b\[[0-9;]*m")
MARKS = "#*_`\\ "
"""All that may be left out: marks, and the space between # and a heading."""

pieces = st.sampled_from(
    [*"#*_`~>|+-\\. \t\n1a()[é重\x1b\x9b\u202e", "**", "```", "```\n", "\n# ", "\n- ", "\n> ", "ab"]
)
texts = st.lists(pieces, max_size=60).map("".join)


def render(*parts: str) -> str:
    markdown = Markdown()
    return "".join([*map(markdown.feed, parts), markdown.finish()])


def plain(text: str) -> str:
    """What is read on the screen."""
    return SGR.sub("", render(text))


def styles(text: str) -> list[tuple[str, str]]:
    """Pieces of text with the style each is printed in."""
    style, found = "", []
    for code, shown in re.findall(r"(\x1b\[[0-9;]*m)|([^\x1b]+)", render(text)):
        if code:
            style = code[2:-1].removeprefix("0").removeprefix(";")
        else:
            found.append((shown, style))
    return found


@given(texts, st.lists(st.integers(0, 200)))
def test_however_it_is_cut_the_same_is_printed(text: str, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(ends)]
    assert render(*parts) == render(*text) == render(text)


@given(texts)
def test_nothing_but_marks_is_left_out(text: str) -> None:
    shown, given = plain(text), terminal_text(text)
    position = 0
    for character in given:
        if position < len(shown) and shown[position] == character:
            position += 1
        else:
            assert character in MARKS
    assert position == len(shown)


@given(texts)
def test_every_style_ends_with_its_line(text: str) -> None:
    for line in render(text).split("\n"):
        codes = SGR.findall(line)
        assert not codes or codes[-1] == "\x1b[0m"


@given(st.text(max_size=80))
def test_whatever_the_model_says_only_styles_reach_the_terminal(text: str) -> None:
    shown = plain(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@given(st.text(alphabet="abc é重.,\n", max_size=80))
def test_text_without_marks_stays_as_it_is_and_waits_for_nothing(text: str) -> None:
    assert Markdown().feed(text) == text


@given(texts)
def test_little_is_held_back(text: str) -> None:
    markdown = Markdown()
    for character in text:
        markdown.feed(character)
        assert len(markdown._held) <= 2 * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title", [("Title", "1;4")]),
        ("### Part *one*", [("Part ", "1"), ("one", "1;3")]),
        ("a **bold** word", [("a ", ""), ("bold", "1"), (" word", "")]),
        ("an *italic* word", [("an ", ""), ("italic", "3"), (" word", "")]),
        ("an _italic_ word", [("an ", ""), ("italic", "3"), (" word", "")]),
        ("_snake_case_", [("snake_case", "3")]),
        ("1990 was", [("1990 was", "")]),
        ("***both***", [("both", "1;3")]),
        ("**bold *it***", [("bold ", "1"), ("it", "1;3")]),
        ("**bold *it* on**", [("bold ", "1"), ("it", "1;3"), (" on", "1")]),
        ("*it **bold** on*", [("it ", "3"), ("bold", "1;3"), (" on", "3")]),
        ("这**重点**", [("这", ""), ("重点", "1")]),
        ("`x*y*`", [("x*y*", "36")]),
        ("``a`b``", [("a`b", "36")]),
        ("- item", [("-", "1"), (" item", "")]),
        ("* **b**", [("*", "1"), (" ", ""), ("b", "1")]),
        ("10. `c`", [("10.", "1"), (" ", ""), ("c", "36")]),
        ("> so", [(">", "2"), (" so", "3")]),
        ("> - so", [(">", "2"), (" ", "3"), ("-", "1"), (" so", "3")]),
        ("```py\n*a\n```", [("```py", "2"), ("\n", ""), ("*a", "36"), ("\n", ""), ("```", "2")]),
        ("~~~\n```\n~~~", [("~~~", "2"), ("\n", ""), ("```", "36"), ("\n", ""), ("~~~", "2")]),
        ("```in line``` so", [("in line", "36"), (" so", "")]),
        ("- ```\n  x\n  ```\n*i*",
         [("-", "1"), (" ", ""), ("```", "2"), ("\n", ""), ("  x", "36"), ("\n", ""), ("  ", "36"),
          ("```", "2"), ("\n", ""), ("i", "3")]),
        ("**open\nnext", [("open", "1"), ("\nnext", "")]),
    ],
)  # fmt: skip
def test_marks(text: str, expected: list[tuple[str, str]]) -> None:
    assert styles(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2*3*4 and 2**3**4",
        "5 * 3 * 2",
        "rm *.py and src/**/*.py",
        "__init__ and snake_case_name and _",
        "| a | **b** |\n|---|---|",
        "#hashtag and #!/bin/sh",
        "#######  seven",
        "#!/bin/sh",
        "---\n***",
        "-1 and +1 and 1.5 and 1990 was",
        "C:\\dir and \\(x\\)",
        "~~gone~~",
        "a `",
        "f(x)*g(x)*h",
        "```\n**code** # no\n    ``` no end",
        "`" * 300,
        "*" * 300,
        "\t  indented",
    ],
)
def test_what_only_looks_like_marks_stays(text: str) -> None:
    assert plain(text) == text


def test_escaped_marks_are_text() -> None:
    assert plain(r"\*not\* \`this\` \# or \_that\_") == "*not* `this` # or _that_"


def test_words_appear_as_they_come() -> None:
    markdown = Markdown()
    assert markdown.feed("so **") == "so "
    assert markdown.feed("b") == "\x1b[1mb"
    assert markdown.feed("old*") == "old"
    assert markdown.feed("*") == ""
    assert markdown.feed(" ") == "\x1b[0m "


def test_hostile_text_is_shown_as_text() -> None:
    assert plain("\x1b]0;title\x07\x1b[2J\x9b2J\u202egnp.exe\r") == (
        "\ufffd]0;title\ufffd\ufffd[2J\ufffd2J\ufffdgnp.exe\ufffd"
    )
