from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.files import remembered_sha256
from edgeslm.flash.service import Service, home_lines, unit


def lines(service: Service) -> list[str]:
    return unit(service).splitlines()


def test_it_serves_the_store_as_a_user_of_its_own() -> None:
    told = lines(Service())
    command = next(line for line in told if line.startswith("ExecStart="))

    assert command == (
        "ExecStart=/opt/edgeslm/current/bin/edgeslm serve /var/lib/edgeslm/store "
        "--host 0.0.0.0 --port 8080"
    )
    assert "User=edgeslm" in told
    assert "NoNewPrivileges=yes" in told
    assert "CapabilityBoundingSet=" in told
    assert not any(line.startswith(("Ambient", "MemoryMax")) for line in told)


def test_what_the_board_has_is_a_limit() -> None:
    assert "MemoryMax=264000000" in lines(Service(most_bytes=264_000_000))


def test_a_port_for_the_privileged_takes_one_right() -> None:
    told = lines(Service(port=80))

    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in told
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 70000},
        {"host": "0 -x"},
        {"host": "a\nExecStart=x"},
        {"root": "/a b"},
        {"root": "/%h"},
        {"account": "x y"},
    ],
)
def test_nothing_else_gets_into_the_unit(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        Service(**wrong)  # type: ignore[arg-type]


def test_below_a_folder_of_the_users_own() -> None:
    told = lines(Service(root="/home/pi/x", account="pi"))
    assert "User=pi" in told
    assert not any(line.startswith("Group=") for line in told)
    assert "ProtectHome=read-only" in told
    assert "ReadWritePaths=/home/pi/x/var/lib/edgeslm" in told
    assert "ReadOnlyPaths=-/home/pi/x/var/lib/edgeslm/store" in told
    assert "ProtectHome=yes" in lines(Service())
    assert "PrivateTmp=no" in lines(Service(root="/tmp/x", account="pi"))


def test_a_users_own_systemd_cannot_shut_it_off() -> None:
    told = lines(Service(root="/home/pi/x", account=None))
    assert "WantedBy=default.target" in told
    assert "NoNewPrivileges=yes" in told
    assert not any(line.startswith(("User=", "Protect", "Capability")) for line in told)
    with pytest.raises(InvalidOption, match="for root only"):
        Service(account=None, port=80)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize(
    "service",
    [
        Service(port=80, most_bytes=200_000_000),
        Service(root="/srv/edge", account="root", trusts=True),
        Service(root="/srv/edge", account=None),
    ],
    ids=["system", "below", "user"],
)
def test_systemd_understands_it(tmp_path: Path, service: Service) -> None:
    root, below = tmp_path / "root", service.root.strip("/")
    for name in ("opt/edgeslm/current/bin", "var/lib/edgeslm"):
        (root / below / name).mkdir(parents=True)
    command = root / below / "opt/edgeslm/current/bin/edgeslm"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    file = root / "etc/systemd/system/edgeslm.service"
    file.parent.mkdir(parents=True)
    file.write_text(unit(service))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", f"--root={root}", "edgeslm.service"],
        capture_output=True,
        text=True,
    )
    assert "edgeslm.service:" not in done.stderr, done.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_the_account_cannot_vouch_for_a_file(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd-tmpfiles would make its home; what it may not write down is computed anew."""
    home, model = open_folder / "home", open_folder / "model"
    for line in home_lines(str(home)).splitlines():
        _, folder, mode, _, group, _ = line.split()
        Path(folder).mkdir()
        os.chown(folder, 0, NOBODY if group == "edgeslm" else 0)
        Path(folder).chmod(int(mode, 8))
    model.write_bytes(b"model")
    (home / "store").mkdir()
    monkeypatch.setenv("EDGESLM_CACHE", str(home / ".cache/edgeslm"))

    assert _as_nobody(lambda: _what_it_may(home, model)) == 0
    assert list((home / ".cache/edgeslm").iterdir()) == [home / ".cache/edgeslm" / "hashes"]
    assert not list((home / ".cache/edgeslm/hashes").iterdir())


NOBODY = 65534


def _what_it_may(home: Path, model: Path) -> None:
    cache = home / ".cache" / "edgeslm"
    assert remembered_sha256(model) == hashlib.sha256(b"model").hexdigest()
    (cache / "states").mkdir()
    (cache / "states").rmdir()
    for other in (cache / "hashes", cache, home / "store"):
        with pytest.raises(PermissionError):
            other.rename(other.with_name("away"))


def _as_nobody(what: Callable[[], None]) -> int:
    """The exit code of a copy of this process that has no rights."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            what()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
