"""Which version of a store is current: one small document, the only truth about it.

And what a store tells of versions.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

from edgeslm.bundle import durable
from edgeslm.bundle.documents import Fields, parse
from edgeslm.errors import InvalidBundle, NotFound, reading
from edgeslm.records import STORE_SCHEMA, document

STATE_NAME, VERSIONS = "state.json", "versions"
NAME_DIGITS = 32
_MOST_REFUSED = 32
_LONGEST_REASON = 500
_NAME = re.compile(f"[0-9a-f]{{{NAME_DIGITS}}}")


@dataclass(frozen=True)
class Version:
    """A bundle in the store.

    Attributes:
        name: The first 32 hex digits of its digest.
        digest: Of its manifest, with its prefix.
        bytes: Of all its files, those included that another version has too.
        current, previous: Whether it is.
    """

    name: str
    digest: str
    bytes: int
    current: bool
    previous: bool


@dataclass(frozen=True)
class Added:
    """A version that is in the store now.

    Attributes:
        version: Its name.
        new: False where it had been there.
        written_bytes: How many bytes of blobs were written; where it had been there, to mend it.
        shared_bytes: How many are those of blobs that other versions have too.
    """

    version: str
    new: bool
    written_bytes: int = 0
    shared_bytes: int = 0


@dataclass(frozen=True)
class Collected:
    """What was removed.

    Attributes:
        versions: Names of versions.
        incoming: How many were being received.
        freed_bytes: Of files that no other version has.
    """

    versions: tuple[str, ...]
    incoming: int
    freed_bytes: int


@dataclass(frozen=True)
class Refusal:
    """A version that did not pass its check, and why."""

    version: str
    reason: str


@dataclass(frozen=True)
class State:
    """What is current.

    Attributes:
        current: The version that is used; None in a store that has never had one.
        previous: The one before.
        refused: Versions that did not pass their checks, the latest last.
    """

    current: str | None = None
    previous: str | None = None
    refused: tuple[Refusal, ...] = ()

    def switched(self, version: str) -> State:
        """The state in which a version is current, and the current one is the previous one."""
        accepted = self.accepting(version)
        if version == self.current:
            return accepted
        return dataclasses.replace(accepted, current=version, previous=self.current)

    def refusing(self, version: str, reason: str) -> State:
        """The state in which a version is known to be no good."""
        refusal = Refusal(version, reason[:_LONGEST_REASON])
        kept = (*self.accepting(version).refused, refusal)[-_MOST_REFUSED:]
        return dataclasses.replace(self, refused=kept)

    def accepting(self, version: str) -> State:
        """The state in which nothing is held against a version."""
        kept = tuple(each for each in self.refused if each.version != version)
        return dataclasses.replace(self, refused=kept)

    def refusal(self, version: str) -> Refusal | None:
        """What is held against a version."""
        return next((each for each in self.refused if each.version == version), None)


def read_state(root: Path) -> State:
    """The state of the store in a folder.

    Raises:
        InvalidBundle: the document is malformed.
    """
    path = root / STATE_NAME
    with reading(path):
        if not path.exists():
            return State()
        data = path.read_bytes()
    fields = Fields(str(path), parse(data, str(path)))
    fields.expect("schema", STORE_SCHEMA)
    return State(
        current=_version(fields, "current"),
        previous=_version(fields, "previous"),
        refused=tuple(
            Refusal(_required(entry, "version"), entry.take("reason", str))
            for entry in (Fields(f"{path}: refused", each) for each in fields.take("refused", list))
        ),
    )


def is_store(path: Path) -> bool:
    """Whether a folder is a store."""
    with reading(path):
        return (path / STATE_NAME).is_file() or (path / VERSIONS).is_dir()


def current_version(root: Path) -> Path:
    """The folder of a store's current version.

    Raises:
        NotFound: none is current.
        InvalidBundle: the document is malformed.
    """
    current = read_state(root).current
    with reading(root):
        if current is None or not (root / VERSIONS / current).is_dir():
            raise NotFound(
                f"{root}: no version is current",
                hint="Add one: edgeslm store add BUNDLE --activate",
            )
    return root / VERSIONS / current


def write_state(root: Path, state: State) -> None:
    """Replace the state: after a power cut it is this one, or the one before."""
    text = json.dumps(document(STORE_SCHEMA, state), indent=2) + "\n"
    durable.replace_synced(root / STATE_NAME, text.encode())


def is_name(text: str) -> bool:
    """Whether a version can be called that: the first half of its digest, in hex."""
    return _NAME.fullmatch(text) is not None


def _version(fields: Fields, key: str) -> str | None:
    return None if fields.take(key, str, None) is None else _required(fields, key)


def _required(fields: Fields, key: str) -> str:
    text: str = fields.take(key, str)
    if not is_name(text):
        raise InvalidBundle(
            f"{fields.where}: {key} is no version: {text[:80]!r}",
            hint="Restore the file, or make the store anew.",
        )
    return text
