"""How much memory llama.cpp says it allocated, read from its log.

There is no call for these figures; the log states them in MiB with two decimals. A line
this module does not know is left out, so a sum is never more than what was logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgeslm.llama.native import LogLine

_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_KINDS = {"model": "weights", "KV": "kv", "RS": "kv", "compute": "compute", "output": "compute"}
_MIB = 2**20


def buffer_bytes(lines: Iterable[LogLine]) -> dict[str, int]:
    """Bytes per kind of buffer: "mapped_weights", "weights" (copied), "kv", "compute".

    Recurrent state counts as "kv", the rows that hold logits as "compute".
    """
    totals: dict[str, int] = {}
    for line in lines:
        match = _BUFFER.search(line.text)
        if match:
            kind = _KINDS[match[2]]
            if kind == "weights" and match[1].endswith("_Mapped"):
                kind = "mapped_weights"
            totals[kind] = totals.get(kind, 0) + round(float(match[3]) * _MIB)
    return totals
