from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from edgeslm.runtime.governor import default_threads


def _board(root: Path, capacities: list[int], monkeypatch: pytest.MonkeyPatch) -> Path:
    for core, capacity in enumerate(capacities):
        folder = root / f"cpu{core}"
        folder.mkdir()
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _pid: set(range(len(capacities))), raising=False
    )
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: len(capacities))
    return root


def test_only_the_fast_cores_of_a_big_little_board_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _board(tmp_path, [530, 530, 530, 530, 1024, 1024, 1024, 1024], monkeypatch)
    assert default_threads(root) == 4


def test_clusters_that_differ_a_little_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacities = [414] * 4 + [1008] * 2 + [1024] * 2
    assert default_threads(_board(tmp_path, capacities, monkeypatch)) == 4


def test_equal_cores_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_threads(_board(tmp_path, [1024] * 4, monkeypatch)) == 4


def test_a_second_thread_per_core_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert default_threads(tmp_path) == 4


def test_cores_that_are_not_allowed_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3}, raising=False)
    assert default_threads(tmp_path) == 1
