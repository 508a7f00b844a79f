"""What a board answers when it is asked, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

from edgeslm.flash.ssh import agent
from edgeslm.flash.ssh.board import Board, read_answer
from edgeslm.flash.ssh.destination import parse_destination

MACHINE = (
    *("architecture", "system", "glibc", "page_bytes", "memory_bytes", "available_bytes"),
    *("features", "user"),
)
"""What `machine` says; all else is said by `agent`."""
LOOKED: dict[str, Any] = {
    "architecture": "aarch64",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "glibc": "2.36",
    "page_bytes": 16384,
    "memory_bytes": 4_240_000_000,
    "available_bytes": 3_900_000_000,
    "features": ["fp", "asimd", "atomics", "asimddp"],
    "user": "pi",
    "systemd": True,
    "enabled": False,
    "active": False,
    "root": "/",
    "free_bytes": 10_000_000_000,
    "closed": None,
    "versions": [],
    "state": None,
    "stored": {},
    "received": {},
    "left_over": False,
    "runtimes": [],
    "runtime": None,
    "unit": None,
    "served": None,
    "going_back_to": None,
    "before": None,
    "signatures": {},
    "keys": {},
    "account": False,
    "made_account": False,
}


def answer(rights: str = "sudo", python: str = "3.11 /usr/bin/python3", **changes: Any) -> str:
    """What the board prints."""
    return printed(LOOKED | changes, rights, python)


def printed(
    looked: dict[str, Any], rights: str = "sudo", python: str = "3.11 /usr/bin/python3"
) -> str:
    """The same for all that was looked at: the machine on a line of its own."""
    parts = {key: looked[key] for key in looked if key in MACHINE}
    rest = {key: looked[key] for key in looked if key not in MACHINE}
    lines = [f"python {python}", f"rights {rights}", "machine Linux aarch64"]
    return "\n".join([*lines, json.dumps(parts), agent.BEGINNING, json.dumps(rest), ""])


def board(rights: str = "sudo", to: str = "ssh://pi@board", **changes: Any) -> Board:
    """The board that answers so."""
    return read_answer(answer(rights, **changes), parse_destination(to))
