from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import NotFound, OutputFailure, UserError
from edgeslm.runtime.history import History, Kept, messages_text, read_conversation
from edgeslm.runtime.messages import Message


def _kept(text: str = "hello", model: str = "tiny") -> Kept:
    return Kept((Message("user", text), Message("assistant", "yes")), model)


def _keep(history: History, text: str, when: int, model: str = "tiny") -> Path:
    path = history.new_path()
    history.keep(_kept(text, model), path)
    os.utime(path, (when, when))
    return path


def test_what_is_kept_reads_back(tmp_path: Path) -> None:
    history = History(tmp_path / "deep" / "chats")
    path = history.new_path()
    said = (
        Message("system", "Be brief."),
        Message("user", "é\u2028\x00"),
        Message("assistant", ""),
    )
    history.keep(Kept(said, "tiny"), path)
    assert read_conversation(path) == Kept(said, "tiny")
    history.keep(Kept(said, "tiny", "ab12"), path)
    assert read_conversation(path) == Kept(said, "tiny", "ab12")
    history.keep(Kept(said, "tiny"), path)
    assert history.entry(1).kept == Kept(said, "tiny")
    assert path.stat().st_mode & 0o777 == 0o600
    assert history.folder.stat().st_mode & 0o777 == 0o700
    assert list(history.folder.iterdir()) == [path]


def test_the_newest_comes_first(tmp_path: Path) -> None:
    history = History(tmp_path)
    for when, (text, model) in enumerate((("a", "tiny"), ("b", "other"), ("c", "tiny")), 1000):
        _keep(history, text, when, model)
    titles = [entry.kept.title for entry in history.entries() if entry.kept]
    assert titles == ["c", "b", "a"]
    assert history.last("other") == history.entries()[1]
    assert history.last("third") is None
    for number in (0, 4):
        with pytest.raises(NotFound):
            history.entry(number)


def test_models_are_told_apart_by_their_digests(tmp_path: Path) -> None:
    history = History(tmp_path)
    said = _kept().messages
    kept = [Kept(said, "a", "1"), Kept(said, "b", "2"), Kept(said, "b", "3"), Kept(said, "old")]
    for when, each in enumerate(kept, 1000):
        path = history.new_path()
        history.keep(each, path)
        os.utime(path, (when, when))

    def last(model: str, digest: str | None) -> Kept | None:
        entry = history.last(model, digest)
        return entry.kept if entry else None

    assert last("b", "2") == last("renamed", "2") == kept[1]
    assert last("b", "3") == last("b", None) == kept[2]
    assert last("old", "9") == kept[3]
    assert last("b", "9") is None


def test_those_that_rest_for_longest_make_room(tmp_path: Path) -> None:
    history = History(tmp_path / "few", most=3)
    paths = [_keep(history, "x", when) for when in range(1000, 1006)]
    assert {entry.path for entry in history.entries()} == set(paths[3:])
    small = History(tmp_path / "small", most_bytes=1000)
    for when in range(1000, 1010):
        _keep(small, "x" * 300, when)
    assert sum(path.stat().st_size for path in small.folder.iterdir()) <= 1000
    big = _keep(small, "x" * 3000, 1011)
    assert [entry.path for entry in small.entries()] == [big]


def test_a_conversation_in_which_nothing_is_said_is_not_kept(tmp_path: Path) -> None:
    history = History(tmp_path)
    path = _keep(history, "hello", 1000)
    history.keep(Kept((Message("system", "Be brief."),), "tiny"), path)
    assert history.entries() == []
    assert History(tmp_path / "none").entries() == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "chats").write_text("in the way")
    history = History(tmp_path / "chats")
    assert history.entries() == []
    with pytest.raises(OutputFailure):
        history.keep(_kept(), history.new_path())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "damaged, or not JSON"),
        ("[" * 100_000, "damaged, or not JSON"),
        ("{}", "not a conversation"),
        ('{"schema": "edgeslm.conversation/1"}', "not a list of messages"),
        ("3", "not a list of messages"),
        ("[3]", "lacks its role or its text"),
        ('[{"role": "tool", "content": "x"}]', "lacks its role or its text"),
        ('[{"role": "user", "content": ["x"]}]', "lacks its role or its text"),
        ('[{"role": "assistant", "content": "x"}]', "the assistant speaks out of turn"),
        ('[{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]', "system speaks"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(UserError, match=problem):
        read_conversation(path)
    (entry,) = History(tmp_path).entries()
    assert entry.kept is None
    assert "chat.json" in entry.problem
    with pytest.raises(UserError, match="last conversation is damaged"):
        History(tmp_path).last("tiny")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(10_000_001)
    for path, problem in (
        (tmp_path / "binary.json", "UTF-8"),
        (large, "too large"),
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(UserError, match=problem):
            read_conversation(path)


def test_halves_of_characters_become_replacements(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text('[{"role": "user", "content": "\\ud83d"}]')
    assert read_conversation(path).messages[0].content == "?"


@given(st.lists(st.text(max_size=20), max_size=6), st.none() | st.text(max_size=20))
def test_messages_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], system: str | None
) -> None:
    roles = ["user", "assistant"] * 3
    said = [Message("system", system)] if system is not None else []
    said += [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    path = tmp_path_factory.getbasetemp() / "said.json"
    path.write_text(messages_text(said), encoding="utf-8")
    assert read_conversation(path) == Kept(tuple(said), None)
    assert all(set(item) == {"role", "content"} for item in json.loads(path.read_text("utf-8")))
