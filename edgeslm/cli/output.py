"""How commands print: JSON for machines, aligned columns for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from edgeslm.records import Figure, Provenance
from edgeslm.units import significant


def print_json(value: Any) -> None:
    """One JSON document on stdout, readable by people too."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Iterable[Sequence[str]], *, header: Sequence[str] | None = None) -> None:
    """Left-aligned columns two spaces apart; an underlined header line if there is one."""
    lines = [tuple(row) for row in rows]
    if header is not None:
        lines = [tuple(header), tuple("-" * len(title) for title in header), *lines]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def warn(message: str) -> None:
    """One line about something the user should know."""
    print(f"warning: {message}", file=sys.stderr)


def figure_text(figure: Figure, unit: str) -> str:
    """The figure as in 9.2 tokens/s (estimated); "unknown" where there is none."""
    if figure.value is None:
        return "unknown"
    text = f"{significant(figure.value)} {unit}"
    if figure.provenance in (None, Provenance.MEASURED):
        return text
    return f"{text} ({figure.provenance.value})"
