"""Another machine to reach over ssh: a real sshd on this one, with keys and a folder of its own."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class SshMachine:
    """One that listens.

    Attributes:
        address: For ssh.
        config: A file for ssh that knows its key and has ours.
        folder: Where its things lie.
        program: The edgeslm there: this one.
        known_hosts, log: Files.
    """

    address: str
    config: Path
    folder: Path
    program: Path
    known_hosts: Path
    log: Path

    def toml(self, name: str = "board", **changes: str) -> str:
        """Its table for a matrix."""
        keys = {
            "address": self.address,
            "edgeslm": str(self.program),
            "folder": str(self.folder / "models there"),
            "ssh_config": str(self.config),
        } | changes
        lines = [f'{key} = "{value}"' for key, value in keys.items()]
        return "\n".join([f"[hosts.{name}]", *lines, ""])


def find_sshd() -> str | None:
    """sshd has to be started by its whole path."""
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_machine(
    folder: Path, *, user: str | None = None, settings: str = "", below: Sequence[str] = ()
) -> tuple[SshMachine, subprocess.Popen[bytes]]:
    """Start one; the process is the caller's to end.

    Args:
        folder: For its things.
        user: Who logs in; whoever runs this.
        settings: More lines for sshd_config.
        below: A command that sshd is started by.
    """
    sshd = find_sshd()
    assert sshd is not None
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in
    port = free_port()
    if user is None:
        words = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout
        user = words.strip()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f"{settings}"
    )
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        f"Host alias\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n"
    )
    machine = SshMachine(
        address=f"ssh://{user}@127.0.0.1:{port}",
        config=folder / "ssh_config",
        folder=folder,
        program=write_program(folder / "edgeslm", folder / "cache"),
        known_hosts=folder / "known_hosts",
        log=folder / "sshd.log",
    )
    with machine.log.open("wb") as log:
        process = subprocess.Popen(
            [*below, sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log
        )
    until = time.monotonic() + 20
    while b"listening" not in machine.log.read_bytes():
        assert process.poll() is None, machine.log.read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    return machine, process


def write_program(path: Path, cache: Path) -> Path:
    """An edgeslm that is this one, whatever the environment of who calls it."""
    path.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))} OMP_THREAD_LIMIT=1\n"
        f"export EDGESLM_CACHE={shlex.quote(str(cache))}\n"
        f'exec {shlex.quote(sys.executable)} -m edgeslm "$@"\n'
    )
    path.chmod(0o755)
    return path
