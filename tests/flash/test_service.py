from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.flash.service import Service, unit


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
