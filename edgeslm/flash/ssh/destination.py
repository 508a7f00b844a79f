"""ssh://user@host[:port][/prefix]: where a bundle goes to; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeslm.errors import InvalidOption
from edgeslm.ssh import is_address

SCHEME = "ssh://"
_PREFIX = re.compile(r"(/[\w.+@-]+)+", re.ASCII)


@dataclass(frozen=True)
class Destination:
    """Where to.

    Attributes:
        named: As the user wrote it.
        address: What ssh is told.
        name: The host as the user wrote it, for messages.
        prefix: The folder there that everything lies in; None for where it usually lies.
    """

    named: str
    address: str
    name: str
    prefix: str | None


def parse_destination(text: str) -> Destination:
    """What the user wrote, taken apart.

    Raises:
        InvalidOption: it is no such address.
    """
    found = re.fullmatch(r"ssh://([^/]+)(/.*)?", text)
    address = f"{SCHEME}{found[1]}" if found else ""
    if found is None or not is_address(address):
        raise InvalidOption(
            f"not an address for ssh: {text!r}", hint="Write ssh://user@host[:port][/prefix]."
        )
    prefix = (found[2] or "").rstrip("/")
    if prefix and not is_plain_path(prefix):
        raise InvalidOption(
            f"not a folder for a board: {prefix!r}",
            hint="Use letters, digits and . _ + @ - between slashes, and no '..'.",
        )
    host = found[1].rpartition("@")[2]
    return Destination(text, address, host, prefix or None)


def is_plain_path(path: str) -> bool:
    """Whether a path can stand in a unit file, and leads nowhere else."""
    return _PREFIX.fullmatch(path) is not None and not {".", ".."} & set(path.split("/"))
