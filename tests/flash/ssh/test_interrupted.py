"""A flash that is ended at any point, and repeated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flashing_boards import Bundles, ask, command, environment, flash, version_of
from machines import free_port
from made_boards import MadeBoard

from edgeslm.bundle.verification import verify_bundle

Way = Callable[[MadeBoard, "subprocess.Popen[bytes]"], None]


def kill(_board: MadeBoard, process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def interrupt(_board: MadeBoard, process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def cut(board: MadeBoard, _process: subprocess.Popen[bytes]) -> None:
    board.cut()


def interrupted(board: MadeBoard, words: tuple[str | Path, ...], after: float, way: Way) -> bool:
    """Start it, end it so; whether it had not come to its end."""
    process = subprocess.Popen(
        command(board, *words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        way(board, process)
        return process.wait(60) != 0
    return False


def ensure_nothing_half(board: MadeBoard) -> None:
    """Whatever has its name is complete, and what is current is there."""
    versions = board.store / "versions"
    for version in versions.iterdir() if versions.exists() else ():
        assert (verify_bundle(version).contents.digest or "").startswith(version.name)
    if board.current is not None:
        assert (versions / board.current).is_dir()
    current = board.root / "opt/edgeslm/current"
    if current.is_symlink():
        done = subprocess.run([current / "bin/edgeslm", "--version"], capture_output=True)
        assert done.returncode == 0, done.stderr


def seconds_of(board: MadeBoard, *words: str | Path) -> float:
    began = time.monotonic()
    flash(board, *words)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_at_thirty_random_points(board: MadeBoard, bundles: Bundles, changed: Path) -> None:
    chance, port, stopped = random.Random(11), str(free_port()), 0
    longest = seconds_of(board, bundles[0], "--port", port)
    order = (changed, bundles[0], bundles[1])
    for number in range(30):
        bundle = order[number % 3]
        if number % 6 == 5:
            board.clear()  # a board that nothing was flashed to
        way = chance.choice((kill, kill, interrupt, cut))
        after = chance.uniform(0.2, longest)
        stopped += interrupted(board, (bundle, "--port", port), after, way)
        ensure_nothing_half(board)
        flash(board, bundle, "--port", port)
        assert board.current == board.served == version_of(bundle)
        ask(port)
        assert not any((board.root / "var/lib/edgeslm/received").iterdir())
        assert flash(board, bundle, "--port", port).stdout.startswith("nothing to do")
    assert stopped >= 20


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_going_back_and_removing(board: MadeBoard, bundles: Bundles) -> None:
    chance, port = random.Random(12), str(free_port())
    flash(board, bundles[0], "--port", port)
    flash(board, bundles[1], "--port", port)
    longest = seconds_of(board, "--rollback")
    note = board.root / "opt/edgeslm/going-back-to"
    for _ in range(8):
        wanted = next(v for v in map(version_of, bundles) if v != board.current)
        interrupted(board, ("--rollback",), chance.uniform(0.2, longest), kill)
        ensure_nothing_half(board)
        if note.exists() or board.current != wanted:
            flash(board, "--rollback")
        assert board.current == board.served == wanted
        ask(port)
    for _ in range(4):
        interrupted(board, ("--uninstall", "--yes"), chance.uniform(0.2, longest), kill)
        flash(board, "--uninstall", "--yes")
        assert not board.root.exists()
        flash(board, bundles[0], "--port", port)
        ask(port)
