"""One connection to another machine, however its owner ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from machines import ROOT, SshMachine, find_sshd, start_machine

from edgeslm.ssh import Connection

_CONNECT = """
import sys, time
from pathlib import Path
from edgeslm.ssh import Connection
connection = Connection(sys.argv[1], "it", Path(sys.argv[2]))
print(connection.ask("echo there").stdout.strip(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SshMachine]:
    if find_sshd() is None:
        pytest.skip("there is no sshd here: apt install openssh-server")
    made, process = start_machine(tmp_path)
    yield made
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_temporary_files_may_lie_deep(
    machine: SshMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    connection = Connection(machine.address, "it", machine.config)
    try:
        assert connection.ask("echo there").stdout == "there\n"
    finally:
        connection.close()


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_killed_owner_leaves_nothing(machine: SshMachine, temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CONNECT, machine.address, str(machine.config)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        (folder,) = temporary.iterdir()
        number = holder(folder)
        os.killpg(process.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while psutil.pid_exists(number) or folder.exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def holder(folder: Path) -> int:
    """The process that holds the connection of a folder."""
    command = ["ssh", "-o", f"ControlPath={folder}/s", "-O", "check", "it"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"pid=(\d+)", said)
    assert found is not None, said
    return int(found[1])
