"""Conversations that are kept: a folder of files, one each, that only their owner may read.

Each file is complete or not there. When there are too many, or they take too much space, those
that rest for longest go.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.errors import NotFound, UserError, reading, writing
from edgeslm.files import atomic_path, read_text
from edgeslm.records import CONVERSATION_SCHEMA
from edgeslm.runtime.messages import Message, plain_message

MOST_CONVERSATIONS = 200
MOST_BYTES = 20_000_000
_MOST_FILE_BYTES = 10_000_000
_FORM = "A conversation is what /save writes: a JSON list of messages with role and content."
_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Kept:
    """A conversation as it is kept.

    Attributes:
        messages: What was said; a system message comes first.
        model: The name of the model that it was held with, if that is known.
        model_digest: Of that model's file, if that is known; names are given more than once.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    model_digest: str | None = None

    @property
    def title(self) -> str:
        """How it began."""
        said = [message.content for message in self.messages if message.role == "user"]
        return " ".join(said[0].split()) if said else ""

    @property
    def exchanges(self) -> int:
        """How often the user said something."""
        return sum(message.role == "user" for message in self.messages)

    def held_with(self, model: str, digest: str | None) -> bool:
        """Whether it was that model: by its digest, or by its name where that is all there is."""
        if digest is not None and self.model_digest is not None:
            return self.model_digest == digest
        return self.model == model


@dataclass(frozen=True)
class Entry:
    """A file of the folder.

    Attributes:
        path: Where it lies.
        saved: When it was written, in seconds since 1970.
        kept: What it holds; None if it is damaged.
        problem: What is wrong with it then.
    """

    path: Path
    saved: float
    kept: Kept | None
    problem: str = ""


class History:
    """The folder of conversations.

    Args:
        folder: Created when something is kept.
        most: How many are kept.
        most_bytes: What they may take together.
    """

    def __init__(
        self, folder: Path, *, most: int = MOST_CONVERSATIONS, most_bytes: int = MOST_BYTES
    ) -> None:
        self.folder = folder
        self._most = most
        self._most_bytes = most_bytes

    def new_path(self) -> Path:
        """Where another conversation goes; nothing is written yet."""
        return self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.json"

    def keep(self, kept: Kept, path: Path) -> None:
        """Write a conversation; one in which nothing was said is removed.

        Raises:
            OutputFailure: it cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not kept.exchanges:
                path.unlink(missing_ok=True)
                return
        with atomic_path(path) as temporary, writing(path):
            temporary.chmod(0o600)
            temporary.write_text(_document(kept), encoding="utf-8", errors="replace")
        self._make_room(path)

    def entries(self) -> list[Entry]:
        """What is kept, the newest first; damaged files are among it."""
        return [_entry(path, saved) for path, saved, _ in self._files()]

    def entry(self, number: int) -> Entry:
        """The one that /history lists under `number`, from 1.

        Raises:
            NotFound: there is none.
            UserError: it is damaged.
        """
        files = self._files()
        if not 1 <= number <= len(files):
            raise NotFound(f"there is no conversation {number}", hint="/history lists them.")
        path, saved, _ = files[number - 1]
        return Entry(path, saved, read_conversation(path))

    def last(self, model: str, digest: str | None = None) -> Entry | None:
        """The conversation held last with a model, if there is one.

        Args:
            model: Its name.
            digest: Of its file.

        Raises:
            UserError: a damaged file is newer, and may have been it.
        """
        for entry in self.entries():
            if entry.kept is None:
                raise UserError(
                    f"the last conversation is damaged: {entry.problem}",
                    hint="Remove the file, or begin without --continue and choose with /load.",
                )
            if entry.kept.held_with(model, digest):
                return entry
        return None

    def _files(self) -> list[tuple[Path, float, int]]:
        """Path, time and bytes of each, the newest first."""
        files = []
        with suppress(OSError):  # no folder: nothing was kept so far
            for path in self.folder.glob("*.json"):
                with suppress(OSError):  # another chat removed it meanwhile
                    status = path.stat()
                    files.append((path, status.st_mtime, status.st_size))
        return sorted(files, key=lambda file: (file[1], file[0].name), reverse=True)

    def _make_room(self, current: Path) -> None:
        total = 0
        for index, (path, _, size) in enumerate(self._files()):
            total += size
            if path != current and (index >= self._most or total > self._most_bytes):
                with suppress(OSError):
                    path.unlink()


def read_conversation(path: Path) -> Kept:
    """A conversation from a file: one that was kept, or a list of messages as /save writes it.

    Raises:
        UserError: it cannot be read, or is none.
    """
    with reading(path):
        size = path.stat().st_size
    if size > _MOST_FILE_BYTES:
        raise UserError(f"{path}: too large for a conversation", hint=_FORM)
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, or not JSON", hint=_FORM) from error
    model, digest = None, None
    if isinstance(data, dict):
        if data.get("schema") != CONVERSATION_SCHEMA:
            raise UserError(f"{path}: not a conversation", hint=_FORM)
        model, digest = (_text(data.get(key)) for key in ("model", "model_digest"))
        data = data.get("messages")
    return Kept(_messages(path, data), model, digest)


def messages_text(messages: Sequence[Message]) -> str:
    """Messages as JSON that read_conversation, and programs for OpenAI's API, can read."""
    return json.dumps(_plain(messages), indent=2, ensure_ascii=False) + "\n"


def _entry(path: Path, saved: float) -> Entry:
    try:
        return Entry(path, saved, read_conversation(path))
    except UserError as error:
        return Entry(path, saved, None, error.message)


def _document(kept: Kept) -> str:
    document = {
        "schema": CONVERSATION_SCHEMA,
        "model": kept.model,
        "model_digest": kept.model_digest,
        "messages": _plain(kept.messages),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [plain_message(message) for message in messages]


def _messages(path: Path, data: object) -> tuple[Message, ...]:
    """What was said: a system message or none, then user and assistant in turn."""
    if not isinstance(data, list):
        raise UserError(f"{path}: not a list of messages", hint=_FORM)
    messages = [_message(path, item) for item in data]
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        if message.role != _ROLES[index % 2]:
            raise UserError(
                f"{path}: the {message.role} speaks out of turn (message {index + 1})",
                hint="User and assistant speak in turn; a system message comes first.",
            )
    return tuple(messages)


def _message(path: Path, item: object) -> Message:
    if isinstance(item, dict):
        role, content = item.get("role"), item.get("content")
        if role in ("system", *_ROLES) and isinstance(content, str):
            return Message(role, content.encode("utf-8", "replace").decode())  # JSON spells halves
    raise UserError(f"{path}: a message lacks its role or its text", hint=_FORM)
