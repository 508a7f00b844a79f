"""A machine over ssh: a real sshd, a real client, real errors."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from machines import SshMachine, find_sshd, free_port, start_machine

from edgeslm.errors import HostFailure, NotFound
from edgeslm.files import sha256
from edgeslm.profiling import jobs
from edgeslm.profiling.matrix import HostEntry
from edgeslm.profiling.remote import RemoteHost

SHORT = ("--json", "-p", "8", "-n", "4", "-r", "1", "--threads", "1", "--idle", "0")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshMachine]:
    if find_sshd() is None:
        pytest.skip("there is no sshd here: apt install openssh-server")
    started, process = start_machine(tmp_path_factory.mktemp("ssh"))
    yield started
    process.terminate()
    process.wait(20)


@pytest.fixture
def entry(machine: SshMachine, tmp_path: Path) -> HostEntry:
    return HostEntry(
        "board",
        address=machine.address,
        edgeslm=str(machine.program),
        folder=str(tmp_path / "models there"),
        ssh_config=machine.config,
    )


def words_of(entry: HostEntry) -> tuple[str, str]:
    """What is said of a machine that cannot be used."""
    with pytest.raises(HostFailure) as caught, closing(RemoteHost(entry)) as host:
        host.check()
    return caught.value.message, caught.value.hint or ""


def test_a_model_is_copied_once_and_measured_there(entry: HostEntry, tiny_model: Path) -> None:
    digest = sha256(tiny_model)
    with closing(RemoteHost(entry)) as host:
        host.check()
        file = host.place(tiny_model, digest)
        copy = Path(entry.folder) / f"{digest}.gguf"
        assert sha256(copy) == digest
        before = copy.stat().st_ino, copy.stat().st_mtime_ns
        assert host.place(tiny_model, digest) == file
        assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == before
        ended = jobs.run(host.command(SHORT, file), 120)
        assert jobs.problem(ended) is None, ended.words
        assert json.loads(ended.output)["model"]["sha256"] == digest
        assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_all_commands_share_one_connection(
    entry: HostEntry, machine: SshMachine, tiny_model: Path
) -> None:
    before = machine.log.read_text().count("Accepted publickey")
    with closing(RemoteHost(entry)) as host:
        host.check()
        host.place(tiny_model, sha256(tiny_model))
        assert host.read().busy_cores is not None
    assert machine.log.read_text().count("Accepted publickey") == before + 1


def test_a_name_of_the_users_configuration(entry: HostEntry) -> None:
    with closing(RemoteHost(replace(entry, address="alias"))) as host:
        host.check()


def test_paths_at_home(
    entry: HostEntry, machine: SshMachine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path.home()
    below = Path(entry.folder).relative_to("/")
    up = "/".join([".."] * len(home.relative_to("/").parts))
    with closing(RemoteHost(replace(entry, folder=f"~/{up}/{below}"))) as host:
        host.place(tiny_model, sha256(tiny_model))
    assert (Path(entry.folder) / f"{sha256(tiny_model)}.gguf").is_file()


def test_a_failure_there_is_told_in_its_own_words(entry: HostEntry, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.gguf"
    nothing.write_bytes(b"GGUF")
    with closing(RemoteHost(entry)) as host:
        file = host.place(nothing, sha256(nothing))
        ended = jobs.run(host.command(SHORT, file), 120)
    found = jobs.problem(ended)
    assert found is not None
    assert found.code == 2
    assert "gguf" in found.reason


def test_a_copy_that_arrives_damaged_is_not_kept(entry: HostEntry, tiny_model: Path) -> None:
    wrong = hashlib.sha256(b"another").hexdigest()
    with closing(RemoteHost(entry)) as host, pytest.raises(HostFailure, match="arrived damaged"):
        host.place(tiny_model, wrong)
    assert list(Path(entry.folder).iterdir()) == []


def test_a_model_that_is_not_here_any_more(entry: HostEntry, tmp_path: Path) -> None:
    gone = tmp_path / "gone.gguf"
    with closing(RemoteHost(entry)) as host, pytest.raises(NotFound, match="no such file"):
        host.place(gone, hashlib.sha256(b"gone").hexdigest())


def test_a_copy_cut_short_is_made_again(entry: HostEntry, tiny_model: Path) -> None:
    digest = sha256(tiny_model)
    copy = Path(entry.folder) / f"{digest}.gguf"
    copy.parent.mkdir()
    copy.write_bytes(tiny_model.read_bytes()[:1000])
    with closing(RemoteHost(entry)) as host:
        host.place(tiny_model, digest)
    assert sha256(copy) == digest


def test_a_full_disk(entry: HostEntry, small_disk: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.gguf"
    large.write_bytes(bytes(3_000_000))
    there = replace(entry, folder=str(small_disk / "models"))
    with closing(RemoteHost(there)) as host, pytest.raises(HostFailure) as caught:
        host.place(large, sha256(large))
    assert "board: no room for large.gguf (3.00 MB, " in caught.value.message
    assert "hosts.board.folder" in (caught.value.hint or "")
    assert list((small_disk / "models").iterdir()) == []


def test_a_folder_that_cannot_be(entry: HostEntry, tiny_model: Path) -> None:
    there = replace(entry, folder="/proc/models")
    with closing(RemoteHost(there)) as host, pytest.raises(HostFailure, match="cannot put"):
        host.place(tiny_model, sha256(tiny_model))


def test_no_edgeslm_there(entry: HostEntry) -> None:
    message, hint = words_of(replace(entry, edgeslm="~/no/such/edgeslm"))
    assert message.startswith("board: no edgeslm there (~/no/such/edgeslm): ")
    assert "hosts.board.edgeslm" in hint


def test_another_version_there(entry: HostEntry, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho edgeslm 99.0\n")
    other.chmod(0o755)
    message, hint = words_of(replace(entry, edgeslm=str(other)))
    assert "edgeslm 99.0 there" in message
    assert "same version" in hint


def test_nobody_listens(entry: HostEntry) -> None:
    message, hint = words_of(replace(entry, address=f"ssh://root@127.0.0.1:{free_port()}"))
    assert "cannot be reached over ssh" in message
    assert "Connection refused" in message
    assert hint.startswith("Try it by hand: ssh ssh://root@127.0.0.1:")


def test_no_key(entry: HostEntry, machine: SshMachine, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    text = machine.config.read_text().replace("user_key", "host_key")
    config.write_text(text)
    message, hint = words_of(replace(entry, ssh_config=config))
    assert "Permission denied" in message
    assert "key" in hint


def test_a_machine_nobody_has_met(entry: HostEntry, machine: SshMachine, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(machine.config.read_text().replace("known_hosts", "no_hosts"))
    message, hint = words_of(replace(entry, ssh_config=config))
    assert "Host key verification failed" in message
    assert "Connect once by hand" in hint


def test_what_runs_there_ends_with_us(
    entry: HostEntry, machine: SshMachine, tmp_path: Path
) -> None:
    note, slow = tmp_path / "number", tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ >{note}\nexec sleep 60\n")
    slow.chmod(0o755)
    starts = (
        "import sys; from pathlib import Path; from edgeslm.profiling import jobs;"
        "from edgeslm.profiling.matrix import HostEntry;"
        "from edgeslm.profiling.remote import RemoteHost;"
        f"host = RemoteHost(HostEntry('board', {entry.address!r}, {str(slow)!r},"
        f" ssh_config=Path({str(entry.ssh_config)!r})));"
        "jobs.run(host.command([], 'file'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", starts])
    until = time.monotonic() + 30
    while not note.exists() or not note.read_text().strip():
        assert time.monotonic() < until
        time.sleep(0.05)
    child = int(note.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait(20)
    while True:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < until
        time.sleep(0.05)
