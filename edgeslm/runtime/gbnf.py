"""Pieces of llama.cpp's grammar notation, GBNF, as text."""

from __future__ import annotations

from collections.abc import Iterable

MOST_REPEATED = 2000
"""Of what llama.cpp's own parser takes in `{m,n}`."""


def literal(text: str) -> str:
    """Just this text."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_escaped(character, "") for character in quoted) + '"'


def one_of(ranges: Iterable[tuple[int, int]]) -> str:
    """A character of one of these ranges of code points, both ends included."""
    return "[" + "".join(_range(low, high) for low, high in ranges) + "]"


def none_of(characters: Iterable[str]) -> str:
    """A character of a JSON string that stands for itself, and is none of these."""
    excluded = "".join(_escaped(character, '"\\[]^-') for character in sorted(set(characters)))
    return f'[^"\\\\\\x00-\\x1F\\x7F{excluded}]'


def repeated(item: str, least: int, most: int | None) -> str:
    """`item` so many times; `most` None is without end."""
    if (least, most) == (1, 1):
        return item
    if most == 0:
        return '""'
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return item + (short or f"{{{least},{'' if most is None else most}}}")


def alternatives(parts: Iterable[str]) -> str:
    """Any of them; in brackets, so that it can stand anywhere."""
    parts = list(dict.fromkeys(parts))
    return parts[0] if len(parts) == 1 else "(" + " | ".join(parts) + ")"


def _range(low: int, high: int) -> str:
    ends = [_escaped(chr(low), '"\\[]^-')]
    if high > low:
        ends += ["-", _escaped(chr(high), '"\\[]^-')]
    return "".join(ends)


def _escaped(character: str, special: str) -> str:
    code = ord(character)
    if character.isascii() and character.isprintable() and character not in special:
        return character
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
