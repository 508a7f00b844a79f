"""What a board answers when it is asked, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

from edgeslm.flash.ssh.board import Board, read_answer
from edgeslm.flash.ssh.destination import parse_destination

LOOKED: dict[str, Any] = {
    "architecture": "aarch64",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "glibc": "2.36",
    "page_bytes": 16384,
    "memory_bytes": 4_240_000_000,
    "features": ["fp", "asimd", "atomics", "asimddp"],
    "user": "pi",
    "systemd": True,
    "enabled": False,
    "active": False,
    "root": "/",
    "free_bytes": 10_000_000_000,
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
    "signatures": {},
    "keys": {},
    "account": False,
    "made_account": False,
}


def answer(rights: str = "sudo", python: str = "3.11 /usr/bin/python3", **changes: Any) -> str:
    """What the board prints."""
    told = json.dumps(LOOKED | changes)
    return f"python {python}\nrights {rights}\nmachine Linux aarch64\n{told}\n"


def board(rights: str = "sudo", to: str = "ssh://pi@board", **changes: Any) -> Board:
    """The board that answers so."""
    return read_answer(answer(rights, **changes), parse_destination(to))
