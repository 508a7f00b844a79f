"""What a board is: said by its own python3. Standard library only, handed over as `agent` is."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path


def look() -> dict[str, object]:
    """The machine, its system, and who we are there."""
    import pwd

    page = os.sysconf("SC_PAGE_SIZE")
    features = _said("/proc/cpuinfo", r"(?:flags|Features)\s*:(.*)$")
    available = _said("/proc/meminfo", r"MemAvailable: *(\d+) kB")
    glibc = ""
    with suppress(ValueError, OSError):  # another C library
        glibc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    user = str(os.getuid())
    with suppress(KeyError):
        user = pwd.getpwuid(os.getuid()).pw_name
    return {
        "architecture": _architecture(),
        "system": _said("/etc/os-release", r'PRETTY_NAME="?([^"\n]*)') or "",
        "glibc": glibc.split()[-1] if glibc else None,
        "page_bytes": page,
        "memory_bytes": page * os.sysconf("SC_PHYS_PAGES"),
        "available_bytes": 1024 * int(available) if available else None,
        "features": features.split() if features else [],
        "user": user,
    }


def _architecture() -> str:
    """That of this Python: a 64-bit kernel runs 32-bit systems too."""
    machine = os.uname().machine
    return "armv7l" if machine == "aarch64" and sys.maxsize < 1 << 32 else machine


def _said(path: str, pattern: str) -> str | None:
    """What a line of a file says that begins so."""
    with suppress(OSError):
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        found = re.search(f"^{pattern}", text, re.MULTILINE)
        return found[1] if found else None
    return None


if __name__ == "__main__":
    print(json.dumps(look()))
