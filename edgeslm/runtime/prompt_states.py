"""States of long prompts on disk: what was computed once is not computed after a restart.

What is kept is the beginning that prompts have in common, the system message above all. There is
one file for each such beginning; those that were not used for longest go when there is no more
room. A file is written beside the answer that goes on, appears when it is complete, and is
compared with its checksum when it is read. It serves only the same model file, build of llama.cpp,
cache type and adapter, and a prompt that begins with exactly its tokens.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import TypeVar

from edgeslm.errors import EdgeslmError
from edgeslm.files import atomic_path, cache_folder
from edgeslm.llama.closing import Closing
from edgeslm.runtime.state_file import (
    Origin,
    StateFile,
    encode_tokens,
    open_state,
    read_head,
    write_state,
)

_T = TypeVar("_T")

DEFAULT_BYTES = 512_000_000
LEAST_TOKENS = 48
"""Fewer are computed as fast as read, and are not worth a write."""
_MOST_UNPROVEN = 8
_MOST_SEEN = 256
_SUFFIX = ".state"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9]{8}-[0-9a-f]{32}\.state")


@dataclass(frozen=True)
class _Entry:
    """A file that may be of use."""

    path: Path
    count: int
    digest: str


class PromptStates(Closing):
    """A folder of states. Close it, so that what is being written is complete.

    Storage cards wear: after eight states that nobody came back for, a beginning is only kept
    when it is seen for the second time.

    Args:
        folder: Where they lie; None keeps nothing.
        most_bytes: What they may take together.
        given: Files that came with the model; they are only read.
    """

    def __init__(
        self, folder: Path | None, most_bytes: int = DEFAULT_BYTES, given: Sequence[Path] = ()
    ) -> None:
        self._folder = folder if most_bytes > 0 else None
        self._most_bytes = most_bytes
        self._given = [(path, head) for path in given if (head := read_head(path)) is not None]
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="edgeslm-states")
        self._unproven: set[str] = set()
        self._seen: dict[str, None] = {}
        self.restored = 0
        """How often a state was taken from here."""
        self.written = 0
        """How many were put here."""

    def close(self) -> None:
        """Wait until what is being written is complete."""
        self._writer.shutdown()

    @property
    def keeps(self) -> bool:
        """Whether anything may be put here."""
        return self._folder is not None

    def work_out(self, task: Callable[[], _T]) -> Future[_T]:
        """Have something done in the thread that writes."""
        return self._writer.submit(task)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be found, of whatever model."""
        return not self._given and not self.files()

    def longest(self, origin: Origin, prompt: Sequence[int], beyond: int) -> StateFile | None:
        """The state of the longest beginning of `prompt` that is known.

        Args:
            origin: What would compute it.
            prompt: Token ids; at least one of them is left to compute.
            beyond: How many are there already; as many are of no use.
        """
        entries = [entry for entry in self._entries(origin) if beyond < entry.count < len(prompt)]
        digests = _digests(prompt, {entry.count for entry in entries})
        for entry in sorted(entries, key=lambda entry: -entry.count):
            if digests[entry.count] == entry.digest:
                found = self._open(entry, origin)
                if found is not None and found.head.tokens == tuple(prompt[: entry.count]):
                    return found
        return None

    def latest(self, origin: Origin, most: int) -> StateFile | None:
        """The state that was used last, of at most so many tokens; else one that was given."""
        entries = [entry for entry in self._entries(origin) if entry.count <= most]
        given = {path for path, _ in self._given}
        entries.sort(key=lambda entry: (entry.path in given, -_used(entry.path)))
        return next((found for entry in entries if (found := self._open(entry, origin))), None)

    def keep(
        self,
        origin: Origin,
        tokens: Sequence[int],
        state_bytes: int,
        fill: Callable[[memoryview], None],
    ) -> bool:
        """Have a state written; the slow part of it in another thread.

        What goes wrong with the disk costs nothing but the state.

        Args:
            origin: What computed it.
            tokens: After which tokens.
            state_bytes: How long it is.
            fill: Copies it, before this returns.

        Returns:
            Whether it will be written.
        """
        name = _name(origin, tokens)
        if self._folder is None or state_bytes > self._most_bytes or not self._worth(name):
            return False
        path = self._folder / name
        if any(head.tokens == tuple(tokens) for _, head in self._given):
            return False
        with suppress(OSError, EdgeslmError), ExitStack() as stack:
            if path.exists():
                return False
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = stack.enter_context(atomic_path(path))
            temporary.chmod(0o600)
            seal = write_state(temporary, origin, tokens, state_bytes, fill)
            self._unproven.add(name)
            self._writer.submit(self._finish, stack.pop_all(), seal)
            return True
        return False

    def _finish(self, stack: ExitStack, seal: Callable[[], None]) -> None:
        with suppress(OSError, EdgeslmError):
            with stack:
                seal()
            self.written += 1
            self._make_room()

    def _worth(self, name: str) -> bool:
        """Whether a write is likely to pay."""
        if len(self._unproven) < _MOST_UNPROVEN or name in self._seen:
            return True
        self._seen[name] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)))
        return False

    def _open(self, entry: _Entry, origin: Origin) -> StateFile | None:
        found = open_state(entry.path)
        if found is None or found.head.origin != origin:
            if self._folder is not None and entry.path.parent == self._folder:
                with suppress(OSError):
                    entry.path.unlink()
            return None
        with suppress(OSError):  # a read-only folder
            os.utime(entry.path)
        self._unproven.discard(entry.path.name)
        return found

    def _entries(self, origin: Origin) -> Iterator[_Entry]:
        """What is there of `origin`."""
        for path, head in self._given:
            if head.origin == origin:
                yield _Entry(path, len(head.tokens), _digest(encode_tokens(head.tokens)))
        group = _group(origin)
        for path in self.files():
            of, count, digest = path.stem.split("-")
            if of == group:
                yield _Entry(path, int(count), digest)

    def files(self) -> list[Path]:
        """All states in the folder, of whatever model."""
        if self._folder is not None:
            with suppress(OSError):  # somebody else's folder
                return [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return []

    def _make_room(self) -> None:
        """Remove what was not used for longest until the rest fits."""
        files = sorted(self.files(), key=_used, reverse=True)
        total = 0
        for path in files:
            with suppress(OSError):  # another process removed it
                total += path.stat().st_size
                if total > self._most_bytes:
                    path.unlink()


def states_folder() -> Path | None:
    """Where states lie if nothing else is said."""
    return cache_folder("states")


def _name(origin: Origin, tokens: Sequence[int]) -> str:
    digest = _digest(encode_tokens(tokens))
    return f"{_group(origin)}-{len(tokens):08}-{digest}{_SUFFIX}"


def _group(origin: Origin) -> str:
    return hashlib.sha256(dumps(asdict(origin)).encode()).hexdigest()[:16]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _digests(tokens: Sequence[int], counts: set[int]) -> dict[int, str]:
    """The digest of the first so many tokens, for each of the counts."""
    found, done, running = {}, 0, hashlib.sha256()
    for count in sorted(counts):
        running.update(encode_tokens(tokens[done:count]))
        found[count], done = running.hexdigest()[:32], count
    return found


def _used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
