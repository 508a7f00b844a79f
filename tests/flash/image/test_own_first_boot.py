"""The script that an image made from Debian's packages runs once: what it really does."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.errors import Unsupported
from edgeslm.flash.image.first_boot import FIRSTRUN, first_boot_files
from edgeslm.flash.image.making import imager_format
from edgeslm.flash.image.settings import Settings, Wifi
from edgeslm.flash.image.system import FirstBoot, System

SYSTEM = System("Debian 13", "trixie", "aarch64", "3.13", "/boot/efi", FirstBoot.OWN)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKu7 Anna's laptop"
HASH = "$6$rounds=1000$salt$hash"
PROGRAMS = ("useradd", "systemctl", "hostname", "chown", "install")


def run_once(folder: Path, settings: Settings) -> list[str]:
    """Run it in a folder instead of the root; what it calls of the system's programs."""
    (script,) = first_boot_files(settings, SYSTEM, None).values()
    log, programs, root = folder / "log", folder / "programs", folder / "root"
    for name in ("boot/efi", "etc/ssh/sshd_config.d", "etc/sudoers.d", "home/anna/.ssh"):
        (root / name).mkdir(parents=True)
    programs.mkdir()
    for name in PROGRAMS:
        program = programs / name
        program.write_text(f'#!/bin/sh\nprintf "%s " {name} "$@" >> {log}; echo >> {log}\n')
        program.chmod(0o755)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 edgeslm\n")
    (root / "boot/efi" / FIRSTRUN).write_bytes(script)
    text = script.decode()
    for name in ("/boot", "/etc", "/home"):
        text = text.replace(f" {name}/", f" {root}{name}/")
    path = f"{programs}:/usr/bin:/bin"
    done = subprocess.run(
        ["sh", "-e"], input=text, text=True, check=True, capture_output=True, env={"PATH": path}
    )
    assert done.stderr == ""
    assert not (root / "boot/efi" / FIRSTRUN).exists()
    return [line.rstrip() for line in log.read_text().splitlines()] if log.exists() else []


def test_a_name_a_zone_and_a_user_with_a_password(tmp_path: Path) -> None:
    told = Settings(
        hostname="pi5", user="anna", password_hash=HASH, ssh=True, timezone="Europe/Berlin"
    )
    called, root = run_once(tmp_path, told), tmp_path / "root"

    assert f"useradd -m -s /bin/bash -G sudo -p {HASH} anna" in called
    assert "systemctl enable --no-reload ssh.service" in called
    assert (root / "etc/hostname").read_text() == "pi5\n"
    assert (root / "etc/hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 pi5\n"
    assert str((root / "etc/localtime").readlink()) == "/usr/share/zoneinfo/Europe/Berlin"
    ssh = root / "etc/ssh/sshd_config.d/edgeslm.conf"
    assert ssh.read_text() == "PasswordAuthentication yes\n"
    assert not list((root / "etc/sudoers.d").iterdir())


def test_who_comes_with_a_key_needs_no_password(tmp_path: Path) -> None:
    run_once(tmp_path, Settings(user="anna", ssh_keys=(KEY,)))

    root = tmp_path / "root"
    assert (root / "home/anna/.ssh/authorized_keys").read_text() == f"{KEY}\n"
    ssh = root / "etc/ssh/sshd_config.d/edgeslm.conf"
    assert ssh.read_text() == "PasswordAuthentication no\n"
    sudoers = root / "etc/sudoers.d/edgeslm"
    assert sudoers.read_text() == "anna ALL=(ALL) NOPASSWD: ALL\n"


def test_only_a_name_turns_nothing_on(tmp_path: Path) -> None:
    assert run_once(tmp_path, Settings(hostname="pi5")) == ["hostname pi5"]


@pytest.mark.parametrize(
    "told",
    [Settings(wifi=Wifi("Home", None, "DE")), Settings(locale="de_DE"), Settings(keyboard="de")],
)
def test_what_it_cannot_do_is_refused(told: Settings) -> None:
    with pytest.raises(Unsupported, match="no Wi-Fi, languages or keyboards"):
        first_boot_files(told, SYSTEM, None)


def test_imager_knows_nothing_of_it() -> None:
    assert imager_format(Settings(), SYSTEM) is FirstBoot.NONE
    assert imager_format(Settings(), replace(SYSTEM, first_boot=FirstBoot.SYSTEMD)) is (
        FirstBoot.SYSTEMD
    )
