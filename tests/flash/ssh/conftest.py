"""Shared by the tests of flash over ssh: a board, bundles that differ, runtimes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machines import find_sshd
from made_boards import MadeBoard, make_runtimes, start_board

from edgeslm.bundle.verification import verify_bundle
from edgeslm.packager.extras import Extras
from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="session")
def board_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeBoard]:
    """What `board` is on; don't use it."""
    if find_sshd() is None or sys.platform != "linux":
        pytest.skip("there is no sshd here: apt install openssh-server")
    folder = Path(tempfile.mkdtemp(prefix="edgeslm-board-"))
    folder.chmod(0o755)
    try:
        below = [] if os.geteuid() else _own(folder, "etc")  # an account is made there
        made, process = start_board(folder, folder / "root", below=below)
        yield made
        made.end()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
def bundles(runtimes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two of one model with different prompts and runtimes; never write to them."""
    folder = tmp_path_factory.mktemp("bundles")
    model = tiny_gguf(folder / "model.gguf", width=512, feed_forward=2048, context_length=512)
    other = make_runtimes(tmp_path_factory.mktemp("wheels") / "second", ".1")
    for name, wheels in (("first", runtimes), ("second", other)):
        pack(
            model,
            folder / name,
            target=load_target("rpi5-4gb"),
            system=f"You are the {name}.",
            extras=Extras(runtime=wheels),
        )
    return folder / "first", folder / "second"


@pytest.fixture(scope="session")
def changed(bundles: tuple[Path, Path], runtimes: Path) -> Path:
    """The first one with a model of which one tensor is another; never write to it."""
    folder = bundles[0].parent
    model = verify_bundle(bundles[0]).contents.model
    data = bytearray((bundles[0] / "blobs/sha256" / model.sha256).read_bytes())
    data[-2000:] = bytes(2000)
    (folder / "changed.gguf").write_bytes(data)
    pack(
        folder / "changed.gguf",
        folder / "changed",
        target=load_target("rpi5-4gb"),
        extras=Extras(runtime=runtimes),
    )
    return folder / "changed"


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, MadeBoard]]:
    """A system that takes all that is written to it into a folder beside it: for root, for a user.

    `root` of each is that folder.
    """
    if os.geteuid() or find_sshd() is None:
        pytest.skip("only root can have a system of its own")
    if (sys.version_info.major, sys.version_info.minor) != _version_of("/usr/bin/python3"):
        pytest.skip("the system's Python is another than the one that tests run in")
    folder = Path(tempfile.mkdtemp(prefix="edgeslm-board-"))
    folder.chmod(0o755)
    found, processes = {}, []
    try:
        for user in ("root", "fresh"):
            place = folder / user
            place.mkdir()
            below = _own(place, "etc", "opt", "var", "home", user="fresh")
            made, process = start_board(place, user=user, below=below)
            found[user] = replace(made, root=place / "written")
            processes.append(process)
        yield found
    finally:
        for made, process in zip(found.values(), processes, strict=True):
            made.end()
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


_OWN_SYSTEM = """
set -e
place=$1 user=$2 names=$3
shift 3
for name in $names; do
    mkdir -p "$place/written/$name" "$place/work/$name"
    mount -t overlay overlay "/$name" \\
        -o "lowerdir=/$name,upperdir=$place/written/$name,workdir=$place/work/$name"
done
[ -z "$user" ] || id "$user" >/dev/null 2>&1 || useradd --create-home --password '*' "$user"
exec "$@"
"""


def _own(place: Path, *names: str, user: str = "") -> list[str]:
    """What starts a command that writes into a folder instead of some of the system's."""
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        _OWN_SYSTEM,
        "sh",
        str(place),
        user,
        " ".join(names),
    ]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no overlays can be mounted here")
    return words


def _version_of(python: str) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return tuple(map(int, done.stdout.split()))
