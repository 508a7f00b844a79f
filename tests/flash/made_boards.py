"""A board to flash over ssh: this machine, by a real sshd, with a folder that is its system.

No systemd runs where tests do, so a small program stands in for systemctl: it starts what the unit
says. The wheel that is installed there leads to the edgeslm that is tested, in this environment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from machines import ROOT, SshMachine, start_machine

from edgeslm.bundle.runtimes import (
    Runtime,
    RuntimeList,
    WheelFile,
    runtime_id,
    write_runtimes,
)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SYSTEMCTL = """\
import os, pathlib, shlex, signal, subprocess, sys, time
state = pathlib.Path(os.environ["BOARD_STATE"])
words = [word for word in sys.argv[1:] if word != "--user"]
with (state / "calls").open("a") as calls:
    calls.write(shlex.join(sys.argv[1:]) + "\\n")
unit, number = state / "unit", state / "number"

def running():
    try:
        pid = int(number.read_text())
        return pid if "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] else None
    except (OSError, ValueError):
        return None

def stop():
    pid = running()
    if pid is not None:
        os.killpg(pid, signal.SIGTERM)
        while running() is not None:
            time.sleep(0.02)

def start():
    lines = pathlib.Path(unit.read_text()).read_text().splitlines()
    told = [line.partition("=")[::2] for line in lines]
    environment = dict(os.environ) | dict(v.split("=", 1) for k, v in told if k == "Environment")
    environment |= {"OMP_THREAD_LIMIT": "1"}
    with (state / "log").open("ab") as log:
        process = subprocess.Popen(
            shlex.split(dict(told)["ExecStart"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=environment,
        )
    number.write_text(str(process.pid))

verb = words[0]
if verb == "is-system-running":
    print("offline" if (state / "no systemd").exists() else "running")
elif verb == "is-enabled":
    print("enabled" if unit.exists() else "disabled")
elif verb == "is-active":
    print("active" if running() else "inactive")
elif verb == "enable":
    unit.write_text(words[1])
elif verb == "disable":
    if not unit.exists():
        sys.exit("Failed to disable unit: Unit file edgeslm.service does not exist.")
    stop()
    unit.unlink(missing_ok=True)
elif verb == "stop":
    stop()
elif verb == "start":
    if running() is None:
        start()
elif verb == "restart":
    stop()
    start()
"""
_MAIN = """\
import os, runpy, sys
places = {places!r}
sys.path[:] = places + [path for path in sys.path if path != os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(places)
for name in [name for name in sys.modules if name.partition(".")[0] == "edgeslm"]:
    del sys.modules[name]
{fault}
runpy.run_module("edgeslm", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class MadeBoard:
    """One that listens.

    Attributes:
        machine: The sshd.
        root: The folder that everything is put into.
        state: Of what stands in for systemd.
        to: Its address for flash.
        number: Of the process that listens.
    """

    machine: SshMachine
    root: Path
    state: Path
    to: str
    number: int

    @property
    def store(self) -> Path:
        return self.root / "var/lib/edgeslm/store"

    @property
    def current(self) -> str | None:
        """The version that is current."""
        with suppress(FileNotFoundError):
            found = json.loads((self.store / "state.json").read_text())["current"]
            return None if found is None else str(found)
        return None

    @property
    def served(self) -> str | None:
        """The version whose model the service has open."""
        with suppress(OSError, ValueError):
            maps = Path(f"/proc/{int((self.state / 'number').read_text())}/maps").read_text()
            found = re.search("/versions/([0-9a-f]{32})/", maps)
            return found[1] if found else None
        return None

    def calls(self) -> list[str]:
        """What systemctl was told, but for questions."""
        with suppress(FileNotFoundError):
            told = (self.state / "calls").read_text().splitlines()
            return [line for line in told if "is-" not in line]
        return []

    def cut(self) -> None:
        """End the connections that stand."""
        for child in psutil.Process(self.number).children():
            if child.name().startswith("sshd"):
                child.kill()

    def end(self) -> None:
        """End the service."""
        with suppress(OSError, ValueError):
            os.killpg(int((self.state / "number").read_text()), signal.SIGKILL)

    def clear(self) -> None:
        """Forget all that was flashed."""
        self.end()
        for folder in (self.root, self.state):
            shutil.rmtree(folder, ignore_errors=True)
        self.state.mkdir()

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Every file and folder, by which a change shows."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            found[str(path.relative_to(self.root))] = (status.st_ino, status.st_ctime_ns)
        return found


def start_board(
    folder: Path, root: Path | None = None, *, user: str | None = None, below: Sequence[str] = ()
) -> tuple[MadeBoard, subprocess.Popen[bytes]]:
    """Start one.

    Args:
        folder: For its things.
        root: A folder to be named as prefix; None for none.
        user, below: See `start_machine`.
    """
    programs, state = folder / "bin", folder / "state"
    programs.mkdir()
    state.mkdir()
    state.chmod(0o777)
    python = sys.executable if user is None else "/usr/bin/python3"
    (programs / "python3").symlink_to(os.path.realpath(python))
    (programs / "systemctl").write_text(f"#!{programs}/python3 -IS\n{_SYSTEMCTL}")
    (programs / "loginctl").write_text("#!/bin/sh\nexit 1\n")
    for name in ("systemctl", "loginctl"):
        (programs / name).chmod(0o755)
    path = f"{programs}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
    settings = f'SetEnv "PATH={path}" BOARD_STATE={state} EDGESLM_WARM_UP=0 OMP_THREAD_LIMIT=1\n'
    machine, process = start_machine(folder, user=user, settings=settings, below=below)
    to = f"{machine.address}{root or ''}"
    return MadeBoard(machine, root or Path("/"), state, to, process.pid), process


def make_runtimes(folder: Path, mark: str = "", *, fault: str = "") -> Path:
    """What `edgeslm wheels` would make: for this machine, and for another kind of board.

    Args:
        folder: Where to; made.
        mark: Another one makes it another runtime.
        fault: A line of Python that runs when it starts.
    """
    folder.mkdir(parents=True)
    places = [
        str(ROOT),
        str(Path(__file__).parent),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    ]
    here = _wheel(
        folder, f"edgeslm-0.0{mark}-py3-none-any.whl", _MAIN.format(places=places, fault=fault)
    )
    other = _wheel(folder, f"other-0.0{mark}-py3-none-any.whl", "")
    listed = RuntimeList(
        "0.0",
        "0.0",
        (here, other),
        (_runtime(other, "aarch64", PYTHON), _runtime(here, platform.machine(), PYTHON)),
    )
    (folder / "runtime.json").write_bytes(write_runtimes(listed))
    return folder


def _runtime(wheel: WheelFile, architecture: str, python: str) -> Runtime:
    identity = runtime_id([wheel.sha256], python)
    return Runtime(identity, architecture, "any", (), python, "2.17", (), (wheel.name,))


def _wheel(folder: Path, name: str, main: str) -> WheelFile:
    project, version = name.split("-")[:2]
    info = f"{project}-{version}.dist-info"
    files = {
        f"{project}/__init__.py": "",
        f"{project}/__main__.py": main,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for inside, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{inside},sha256={digest.decode()},{len(text.encode())}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"])
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(zipfile.ZipInfo(inside), text)
    data = path.read_bytes()
    return WheelFile(name, hashlib.sha256(data).hexdigest(), len(data))
