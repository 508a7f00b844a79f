"""Elements of HTML and SVG. A plain string in one is always text: only `tag` makes markup."""

from __future__ import annotations

import html
import re

_UNFIT = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, what turns the direction of text, and what UTF-8 cannot hold."""
_VOID = frozenset({"meta", "link", "br", "col"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def plain(text: str) -> str:
    """One line of `text`; what is no character to be seen becomes U+FFFD."""
    return _UNFIT.sub("\ufffd", " ".join(text.split("\n")).replace("\t", " "))


def escape(text: str) -> Markup:
    """`text` as HTML shows it."""
    return text if isinstance(text, Markup) else Markup(html.escape(plain(text), quote=True))


def join(*parts: str) -> Markup:
    """Parts one after the other; those that are no markup are escaped."""
    return Markup("".join(map(escape, parts)))


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """An element. `class_` is class, `data_x` is data-x; None and False leave an attribute out."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelt = key.rstrip("_").replace("_", "-")
        parts.append(spelt if value is True else f'{spelt}="{escape(_spelt(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def _spelt(value: object) -> str:
    """Coordinates need no more than two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
