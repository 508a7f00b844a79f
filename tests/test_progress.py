from __future__ import annotations

import sys
from typing import Any

import pytest
from rich.progress import Progress

from edgeslm.progress import bar, note


def test_nothing_is_printed_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("Working", 3) as advance:
        advance(2)
    note("a word")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_bar_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with bar("Working", 100, unit="bytes") as advance:
        advance(50)
    note("a word")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Working" in err
    assert "a word" in err


def test_a_bar_grows_where_more_is_done_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    seen: list[tuple[float, float]] = []
    update = Progress.update

    def noting(self: Progress, *arguments: Any, **more: Any) -> None:
        update(self, *arguments, **more)
        seen.append((more["completed"], more["total"]))

    monkeypatch.setattr(Progress, "update", noting)
    with bar("Working", 2) as advance:
        for _ in range(3):
            advance(1)
    assert seen == [(1, 2), (2, 2), (3, 3)]
