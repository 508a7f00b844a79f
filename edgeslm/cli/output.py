"""How commands print: JSON for machines, aligned columns for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from edgeslm.errors import EdgeslmError
from edgeslm.records import Figure, Provenance
from edgeslm.units import significant

_BIDI = r"\u202a-\u202e\u2066-\u2069"
"""Characters that make a terminal show text in another order than it stands."""
_UNPRINTABLE = re.compile(rf"[\x00-\x1f\x7f-\x9f{_BIDI}]")
_STEERING = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}]")


def print_json(value: Any) -> None:
    """One JSON document on stdout, readable by people too."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Iterable[Sequence[str]], *, header: Sequence[str] | None = None) -> None:
    """Left-aligned columns two spaces apart; an underlined header line if there is one."""
    lines = [tuple(map(one_line, row)) for row in rows]
    if header is not None:
        lines = [tuple(header), tuple("-" * len(title) for title in header), *lines]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_lines(lines: Iterable[str]) -> None:
    """Each on a line of its own; files may have any names."""
    for line in lines:
        print(_UNPRINTABLE.sub("\ufffd", line))


def warn(message: str) -> None:
    """One line about something the user should know."""
    print(f"warning: {one_line(message)}", file=sys.stderr)


def print_error(error: EdgeslmError) -> None:
    """One line of cause and one of hint, on stderr."""
    print(f"error: {one_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {one_line(error.hint)}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` without line breaks and whatever else steers a terminal; files may hold anything."""
    return _UNPRINTABLE.sub("\ufffd", " ".join(text.splitlines()))


def terminal_text(text: str) -> str:
    """`text` with its line breaks, without what steers a terminal."""
    return _STEERING.sub("\ufffd", text)


def json_line(value: Any) -> str:
    """One line of JSON; what would steer a terminal stands there escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def figure_text(figure: Figure, unit: str) -> str:
    """The figure as in 9.2 tokens/s (estimated); "unknown" where there is none."""
    if figure.value is None:
        return "unknown"
    text = f"{significant(figure.value)} {unit}"
    if figure.provenance in (None, Provenance.MEASURED):
        return text
    return f"{text} ({figure.provenance.value})"
