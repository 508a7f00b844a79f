"""A board that was asked what it is and what it has; the answer is checked, and nothing in it run.

What is asked: which of its Pythons there are and with which rights we come, by a few lines of
shell; what it is by `machine`; what it has by `agent`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from edgeslm.errors import HostFailure, Unsupported
from edgeslm.flash import places
from edgeslm.flash.ssh import agent, machine
from edgeslm.flash.ssh.destination import Destination, is_plain_path
from edgeslm.records import from_json

OLDEST_PYTHON = (3, 11)
"""Of the runtimes' launcher."""
_MOST_ANSWER = 16 << 20
_LAST_PORT = 65535
_NAMES = ("python3", *(f"python3.{minor}" for minor in range(15, 10, -1)))
_PYTHONS = (*(f"/usr/bin/{name}" for name in _NAMES), *_NAMES)
"""The system's own first: everybody may run those, also the service's account."""
_PROBE = """
machine=$1 agent=$2 prefix=$3 first=
asked='import sys; print("%d.%d" % sys.version_info[:2], sys.executable)'
shift 3
for name in "$@"; do
    path=$(command -v "$name") || continue
    found=$("$path" -I -S -c "$asked" </dev/null 2>/dev/null) || continue
    echo "python $found"
    [ -n "$first" ] || first=$path
done
rights=none run=
if [ "$(id -u)" = 0 ]; then
    rights=root
elif sudo -n true </dev/null >/dev/null 2>&1; then
    rights=sudo run="sudo -n"
fi
echo "rights $rights"
echo "machine $(uname -s) $(uname -m)"
[ -n "$first" ] || exit 0
"$first" -I -S -c "$machine" </dev/null || exit
given=$(printf '{"rights": "%s", "prefix": %s}' "$rights" "$prefix")
exec $run "$first" -I -S -c "$agent" look "$given" </dev/null
"""


class Rights(str, Enum):
    """What we may do there: all, all with sudo, what the user may."""

    ROOT = "root"
    SUDO = "sudo"
    NONE = "none"


@dataclass(frozen=True)
class Looked:
    """What `machine.look` and `agent.look` say.

    Attributes:
        architecture: As Linux names it.
        system: Its name for people; may be empty.
        glibc: The C library's version; None for another C library.
        page_bytes, memory_bytes, free_bytes: Of memory; of the disk below `root`.
        features: What the processor can do.
        user: Who we are there.
        systemd: Whether it runs there, the user's own where we have no rights.
        enabled, active: The service.
        root: The folder that everything lies in.
        versions: Of the store: all that are complete.
        state: The text of the store's state.json.
        closed: The folder on the way to `root`, itself included, that others may not enter.
        left_over: Whether something was received that nobody needs any more, or not yet.
        runtimes, runtime: Those that are complete; the current one.
        unit: The text of the unit file.
        served: Which runtime goes with which version: the text of a small document.
        going_back_to: The version that was to be gone back to, if that was interrupted.
        before: What was served before changes that no service has answered with yet: a document.
        available_bytes: Of memory, without what is in use; None where nobody knows.
        account: Whether the service's account exists.
        made_account: Whether a flash made it.
    """

    architecture: str
    system: str
    glibc: str | None
    page_bytes: int
    memory_bytes: int
    features: tuple[str, ...]
    user: str
    systemd: bool
    enabled: bool
    active: bool
    root: str
    free_bytes: int
    closed: str | None
    versions: tuple[str, ...]
    state: str | None
    left_over: bool
    runtimes: tuple[str, ...]
    runtime: str | None
    unit: str | None
    served: str | None
    going_back_to: str | None
    before: str | None
    available_bytes: int | None
    account: bool
    made_account: bool


@dataclass(frozen=True)
class Before:
    """What was served before a flash; None where there was none.

    Attributes:
        version: Of the store.
        runtime: The current one then.
        unit: The text of the unit file.
    """

    version: str | None = None
    runtime: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Board:
    """A board, as it was when it was asked.

    Attributes:
        looked: What it said.
        rights: What we may do.
        pythons: Paths of its Pythons by version, (3, 11) and the like.
        stored, received: Sizes of blobs by their hashes: in versions; received, in none yet.
        signatures: Hashes of the versions' signatures; empty where there is none.
        keys: Hashes of the trusted keys' files by their names.
        served: The runtimes by the versions they go with.
        current, previous: The first 32 hex digits of versions; None where there is none.
        prefix: Whether the user named the folder.
        before: What was served before a flash that no service has answered after yet.
    """

    looked: Looked
    rights: Rights
    pythons: Mapping[tuple[int, int], str]
    stored: Mapping[str, int]
    received: Mapping[str, int]
    signatures: Mapping[str, str]
    keys: Mapping[str, str]
    current: str | None
    previous: str | None
    served: Mapping[str, str]
    prefix: bool
    before: Before | None

    def path(self, place: str) -> str:
        """Where something of `places` lies there."""
        return str(PurePosixPath(self.looked.root) / place)

    @property
    def alone(self) -> bool:
        """Whether everything is the user's own, and so is the systemd that starts it."""
        return self.rights is Rights.NONE

    @property
    def unit_file(self) -> str:
        """The path of the unit file."""
        unit = places.UNIT.replace("/system/", "/user/") if self.alone else places.UNIT
        return self.path(unit)

    @property
    def account(self) -> str | None:
        """Whom the service runs as: an account of its own, or, below a prefix, the user.

        Never root; None where the user's own systemd starts it.
        """
        if self.alone:
            return None
        return self.looked.user if self.prefix and self.looked.user != "root" else places.USER

    @property
    def received_folder(self) -> str:
        """Where files arrive."""
        return self.path(f"{places.HOME}/received")

    @property
    def going_back_file(self) -> str:
        """Where it is written down which version is being gone back to."""
        return self.path(f"{places.OPT}/going-back-to")

    @property
    def before_file(self) -> str:
        """Where it is written down what was served before, until a service has answered."""
        return self.path(f"{places.OPT}/before.json")

    @property
    def unfinished(self) -> bool:
        """Whether something was changed that the service may not have started with."""
        return self.before is not None or self.looked.going_back_to is not None

    @property
    def port(self) -> int | None:
        """Where the service answers, by its unit file; None where there is none."""
        found = re.search(r"^ExecStart=.* --port (\d{1,5})\b", self.looked.unit or "", re.MULTILINE)
        return int(found[1]) if found and 1 <= int(found[1]) <= _LAST_PORT else None

    @property
    def served_file(self) -> str:
        """Where it is written down which runtime goes with which version."""
        return self.path(f"{places.OPT}/served.json")

    @property
    def lock(self) -> str:
        """Of whoever changes it."""
        return self.path(f"{places.HOME}/flash.lock")


def question(destination: Destination) -> str:
    """The line of shell that asks a board."""
    files = map(Path, (machine.__file__, agent.__file__))
    programs = [file.read_text(encoding="utf-8") for file in files]
    words = (*programs, json.dumps(destination.prefix), *_PYTHONS)
    return f"sh -c {shlex.quote(_PROBE)} probe {shlex.join(words)}"


def read_answer(text: str, destination: Destination) -> Board:
    """What a board answered.

    Raises:
        Unsupported: it has no Python, or is no Linux.
        HostFailure: it answers something else.
    """
    name = destination.name
    lines = [line for line in text[:_MOST_ANSWER].splitlines() if line != agent.BEGINNING]
    pythons: dict[tuple[int, int], str] = {}
    for line in lines:
        found = re.fullmatch(r"python (\d{1,4})\.(\d{1,4}) (/[\w./+-]+)", line, re.ASCII)
        if found:
            pythons.setdefault((int(found[1]), int(found[2])), found[3])
    kind = next((line.split()[1:] for line in lines if line.startswith("machine ")), [])
    if kind and kind[0] != "Linux":
        raise Unsupported(f"{name}: runs {kind[0]}, not Linux", hint="Flash a Linux board.")
    if kind and not pythons:
        raise Unsupported(
            f"{name}: has no python3",
            hint="Install it there: sudo apt install python3, or flash an image.",
        )
    rights = [line.partition(" ")[2] for line in lines if line.startswith("rights ")]
    try:
        value = json.loads(lines[-2]) | json.loads(lines[-1])
        return _board(value, Rights(rights[0]), pythons, prefix=destination.prefix is not None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HostFailure(
            f"{name}: does not answer as a board does: {error}"[:500],
            hint="See whether its shell prints something else: ssh HOST true",
        ) from error


def _board(
    value: Any, rights: Rights, pythons: Mapping[tuple[int, int], str], *, prefix: bool
) -> Board:
    looked = from_json(Looked, value)
    if not is_plain_path(looked.root) and looked.root != "/":
        raise ValueError(f"its folder has an odd name: {looked.root!r}; name another as a prefix")
    names = [*looked.versions, *looked.runtimes]
    if not all(re.fullmatch("[0-9a-f]{32}|[0-9a-f]{16}", each) for each in names):
        raise ValueError("it has odd versions")
    if not re.fullmatch(r"[\w.-]{1,64}", looked.user, re.ASCII):
        raise ValueError(f"its user has an odd name: {looked.user!r}")
    current, previous = _versions(looked)
    return Board(
        looked,
        rights,
        pythons,
        stored=_sizes(value["stored"]),
        received=_sizes(value["received"]),
        signatures=_hashes(value["signatures"]),
        keys=_hashes(value["keys"]),
        current=current,
        previous=previous,
        served=_served(looked.served),
        prefix=prefix,
        before=_before(looked.before),
    )


def _before(text: str | None) -> Before | None:
    """What cannot be read says at least that there was something unfinished."""
    if text is None:
        return None
    try:
        return from_json(Before, json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return Before()


def _sizes(value: dict[str, Any]) -> dict[str, int]:
    return {name: int(size) for name, size in value.items() if re.fullmatch("[0-9a-f]{64}", name)}


def _hashes(value: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(digest) for name, digest in value.items()}


def _versions(looked: Looked) -> tuple[str | None, str | None]:
    """Current and previous version by the store's state, of those that are there."""
    try:
        state = json.loads(looked.state or "{}")
    except ValueError:
        return None, None
    found = [state.get(key) if isinstance(state, dict) else None for key in ("current", "previous")]
    short = [
        value.removeprefix("sha256:")[:32] if isinstance(value, str) else None for value in found
    ]
    current, previous = (value if value in looked.versions else None for value in short)
    return current, previous


def _served(text: str | None) -> dict[str, str]:
    """Version to runtime; what is not so is left out: it is only looked up."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    pairs = value.items() if isinstance(value, dict) else ()
    return {
        version: runtime
        for version, runtime in pairs
        if isinstance(runtime, str)
        and re.fullmatch("[0-9a-f]{32}/[0-9a-f]{16}", f"{version}/{runtime}")
    }
