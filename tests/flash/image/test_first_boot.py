from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_images import BOOKWORM_CMDLINE, TRIXIE_CMDLINE

from edgeslm.errors import InvalidImage, Unsupported
from edgeslm.flash.image.first_boot import first_boot_files, network_config, user_data
from edgeslm.flash.image.settings import Settings, Wifi
from edgeslm.flash.image.system import FirstBoot, System

yaml: Any = pytest.importorskip("yaml")

BOOKWORM = System(
    "Debian GNU/Linux 12 (bookworm)",
    "bookworm",
    "aarch64",
    "3.11",
    "/boot/firmware",
    FirstBoot.SYSTEMD,
)
TRIXIE = replace(BOOKWORM, version="trixie", python="3.13", first_boot=FirstBoot.CLOUD_INIT)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKu7 Anna's laptop"
HASH = "$6$rounds=1000$salt$hash"
ALL = Settings(
    hostname="pi5",
    user="anna",
    password_hash=HASH,
    ssh_keys=(KEY,),
    wifi=Wifi("Anna's $HOME", "ab" * 32, "DE"),
    locale="de_DE",
    timezone="Europe/Berlin",
    keyboard="de",
)
SSIDS = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())


def run_script(folder: Path, script: bytes) -> list[list[str]]:
    """What a script calls of the programs that Raspberry Pi OS has, with which arguments."""
    log, programs = folder / "log", folder / "programs"
    programs.mkdir()
    (folder / "boot").mkdir()
    for name in ("imager_custom", "userconf", "raspi-config"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" END >> {log}\n')
        program.chmod(0o755)
    text = script.decode()
    for place in ("/usr/lib/raspberrypi-sys-mods/", "/usr/lib/userconf-pi/"):
        text = text.replace(place, f"{programs}/")
    (folder / "firstrun.sh").write_text(text.replace("/boot/firmware", str(folder / "boot")))
    (folder / "boot" / "firstrun.sh").write_text("")
    path = f"{programs}:/usr/bin:/bin"
    subprocess.run(["sh", folder / "firstrun.sh"], check=True, env={"PATH": path})
    words = log.read_text().split("\0")[:-1]
    calls: list[list[str]] = [[]]
    for word in words:
        if word == "END":
            calls.append([])
        else:
            calls[-1].append(word)
    return calls[:-1]


def test_bookworm_is_told_by_a_script(tmp_path: Path) -> None:
    files = first_boot_files(ALL, BOOKWORM, BOOKWORM_CMDLINE)

    assert set(files) == {"firstrun.sh", "cmdline.txt"}
    assert files["cmdline.txt"].decode() == (
        BOOKWORM_CMDLINE.rstrip() + " systemd.run=/boot/firmware/firstrun.sh"
        " systemd.run_success_action=reboot systemd.unit=kernel-command-line.target\n"
    )
    assert run_script(tmp_path, files["firstrun.sh"]) == [
        ["imager_custom", "set_hostname", "pi5"],
        ["userconf", "anna", HASH],
        ["imager_custom", "enable_ssh", "-k", KEY],
        ["imager_custom", "set_wlan", "Anna's $HOME", "ab" * 32, "DE"],
        ["raspi-config", "nonint", "do_change_locale", "de_DE.UTF-8"],
        ["imager_custom", "set_keymap", "de"],
        ["imager_custom", "set_timezone", "Europe/Berlin"],
    ]


def test_the_script_takes_itself_away_and_no_word_of_others(tmp_path: Path) -> None:
    others = f"systemd.show_status=1 {BOOKWORM_CMDLINE.rstrip()} systemd.mask=apt.service"
    once = " systemd.run=/boot/firmware/earlier.sh systemd.unit=kernel-command-line.target"
    files = first_boot_files(Settings(hostname="pi5"), BOOKWORM, f"{others}{once}\n")
    assert files["cmdline.txt"].startswith(f"{others} systemd.run=/boot/firmware/f".encode())
    boot = tmp_path / "boot"
    run_script(tmp_path, files["firstrun.sh"])
    line = files["cmdline.txt"].decode().rstrip() + " cfg80211.ieee80211_regdom=DE\n"
    (boot / "cmdline.txt").write_text(line)
    subprocess.run(["sh", tmp_path / "firstrun.sh"], check=True, env={"PATH": "/usr/bin:/bin"})

    assert not (boot / "firstrun.sh").exists()
    assert (boot / "cmdline.txt").read_text() == f"{others} cfg80211.ieee80211_regdom=DE\n"


def test_an_older_system_has_its_boot_partition_elsewhere() -> None:
    files = first_boot_files(ALL, replace(BOOKWORM, boot="/boot"), BOOKWORM_CMDLINE)

    assert b"systemd.run=/boot/firstrun.sh " in files["cmdline.txt"]
    assert b"rm -f /boot/firstrun.sh\n" in files["firstrun.sh"]


def test_trixie_is_told_by_cloud_init() -> None:
    files = first_boot_files(ALL, TRIXIE, TRIXIE_CMDLINE)

    assert set(files) == {"user-data", "network-config", "meta-data", "cmdline.txt"}
    assert files["user-data"].startswith(b"#cloud-config\n")
    told = yaml.safe_load(files["user-data"])
    assert told == {
        "hostname": "pi5",
        "manage_etc_hosts": True,
        "locale": "de_DE.UTF-8",
        "timezone": "Europe/Berlin",
        "keyboard": {"model": "pc105", "layout": "de"},
        "user": {
            "name": "anna",
            "shell": "/bin/bash",
            "lock_passwd": False,
            "passwd": HASH,
            "sudo": None,
            "ssh_authorized_keys": [KEY],
        },
        "ssh_pwauth": False,
        "runcmd": [["systemctl", "enable", "--now", "ssh"]],
    }
    network = yaml.safe_load(files["network-config"])["network"]
    assert network["version"] == 2
    assert network["ethernets"]["eth0"]["dhcp4"] is True
    wlan = network["wifis"]["wlan0"]
    assert wlan["regulatory-domain"] == "DE"
    assert wlan["access-points"] == {"Anna's $HOME": {"password": "ab" * 32}}
    instance = yaml.safe_load(files["meta-data"])["instance-id"]
    assert files["cmdline.txt"].decode() == f"{TRIXIE_CMDLINE.rstrip()} ds=nocloud;i={instance}\n"


def test_other_settings_are_another_instance() -> None:
    first, again, other = (
        first_boot_files(Settings(hostname=name), TRIXIE, None)["meta-data"]
        for name in ("a", "a", "b")
    )
    assert first == again != other


@given(SSIDS)
def test_any_network_name_arrives_in_yaml(name: str) -> None:
    told = yaml.safe_load(network_config(Wifi(name, None, "DE")))

    access = told["network"]["wifis"]["wlan0"]["access-points"]
    assert access == {name: {"auth": {"key-management": "none"}}}


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell here")
@pytest.mark.parametrize("name", ["it's", "a`b", "$(reboot)", "x;y", "Cafe\u0301", " ends "])
def test_any_network_name_arrives_in_the_shell(tmp_path: Path, name: str) -> None:
    settings = Settings(wifi=Wifi(name, "ab" * 32, "DE"))
    script = first_boot_files(settings, BOOKWORM, BOOKWORM_CMDLINE)["firstrun.sh"]

    expected = "\\sends\\s" if name == " ends " else name
    assert run_script(tmp_path, script)[0][2] == expected


def test_no_user_no_login() -> None:
    assert yaml.safe_load(user_data(Settings(hostname="pi5"))) == {
        "hostname": "pi5",
        "manage_etc_hosts": True,
    }


def test_who_has_only_a_key_keeps_the_rights_of_the_image() -> None:
    told = yaml.safe_load(user_data(Settings(user="anna", ssh_keys=(KEY,))))

    assert told["user"]["lock_passwd"] is True
    assert "sudo" not in told["user"]


def test_nothing_to_tell_is_no_file() -> None:
    assert first_boot_files(Settings(), BOOKWORM, BOOKWORM_CMDLINE) == {}


def test_a_system_that_cannot_be_told() -> None:
    with pytest.raises(Unsupported, match="no way of being told"):
        first_boot_files(ALL, replace(BOOKWORM, first_boot=FirstBoot.NONE), None)


def test_a_strange_cmdline_is_refused() -> None:
    with pytest.raises(InvalidImage, match="one line"):
        first_boot_files(ALL, BOOKWORM, "a\nb\n")
