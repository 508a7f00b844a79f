"""What Tab makes of a word, as readline asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.cli.reading import _completer


def test_candidates_are_looked_for_once_a_word() -> None:
    looked: list[str] = []

    def complete(_before: str, word: str) -> Sequence[str]:
        looked.append(word)
        return [f"{word}{number}" for number in range(3)]

    completed = _completer(complete)
    assert [completed("a", index) for index in range(4)] == ["a0", "a1", "a2", None]
    assert looked == ["a"]
    assert completed("b", 0) == "b0"
    assert looked == ["a", "b"]
