"""Shared by the tests of flash over ssh: a board, bundles that differ, runtimes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_boards import MadeBoard, make_runtimes, start_board
from machines import find_sshd

from edgeslm.packager.extras import Extras
from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target


@pytest.fixture(scope="session")
def board_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeBoard]:
    """What `board` is on; don't use it."""
    if find_sshd() is None or sys.platform != "linux":
        pytest.skip("there is no sshd here: apt install openssh-server")
    folder = tmp_path_factory.mktemp("board")
    made, process = start_board(folder, folder / "root")
    yield made
    made.end()
    process.send_signal(signal.SIGTERM)
    process.wait(20)


@pytest.fixture
def board(board_machine: MadeBoard) -> Iterator[MadeBoard]:
    """A board that nothing was flashed to."""
    board_machine.clear()
    yield board_machine
    board_machine.end()


@pytest.fixture(scope="session")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edgeslm wheels` would make for this machine; never write to it."""
    return make_runtimes(tmp_path_factory.mktemp("wheels") / "first")


@pytest.fixture(scope="session")
def bundles(
    runtimes: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two with different prompts and runtimes; never write to them."""
    folder = tmp_path_factory.mktemp("bundles")
    other = make_runtimes(tmp_path_factory.mktemp("wheels") / "second", ".1")
    for name, wheels in (("first", runtimes), ("second", other)):
        pack(
            tiny_model,
            folder / name,
            target=load_target("rpi5-4gb"),
            system=f"You are the {name}.",
            extras=Extras(runtime=wheels),
        )
    return folder / "first", folder / "second"
