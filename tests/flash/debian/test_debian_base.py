"""A base from a handful of files: all but the fetching, by the programs that really make it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_images import MIB
from made_packages import FILES, KERNEL, make_packages

from edgeslm.errors import Failure, NotFound
from edgeslm.flash import programs
from edgeslm.flash.carried import Load, opened
from edgeslm.flash.debian import base
from edgeslm.flash.debian.recipe import Recipe
from edgeslm.flash.image import making
from edgeslm.flash.image.ext4 import Ext4
from edgeslm.flash.image.fat import Fat
from edgeslm.flash.image.partitions import read_table
from edgeslm.flash.image.settings import Settings
from edgeslm.flash.image.system import FirstBoot, look
from edgeslm.flash.runtimes import Brought
from edgeslm.flash.service import Service

TRIXIE = Recipe("trixie")
ROOT = 257 * MIB

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or any(map(programs.lacks, set(base.PROGRAMS) - {"mmdebstrap"})),
    reason=f"needs Linux and {base.PROGRAMS}",
)


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a program called mmdebstrap writes here, instead of fetching; it may be replaced."""
    packages, folder = make_packages(tmp_path / "fetched.tar"), tmp_path / "bin"
    folder.mkdir()
    program = folder / "mmdebstrap"
    program.write_text(
        f"#!/bin/sh\nfor target; do :; done\necho made >> {tmp_path}/log\n"
        f'test -s {packages} || {{ echo "E: no network" >&2; echo "E: failed" >&2; exit 25; }}\n'
        f'cp {packages} "$target"\n'
    )
    program.chmod(0o755)
    path = subprocess.run(["printenv", "PATH"], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("PATH", f"{folder}:{path.strip()}")
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    return packages


def esp_of(image: Path) -> Fat:
    return Fat(image, MIB, 256 * MIB)


def stat(image: Path, path: str) -> str:
    command = ["debugfs", "-R", f"stat {path}", f"{image.name}?offset={ROOT}"]
    return programs.run(command, folder=image.parent)[0].decode()


def test_a_base_is_a_system_that_can_be_filled(fetched: Path) -> None:
    image = base.at_hand(TRIXIE)

    table = read_table(
        lambda offset, count: image.read_bytes()[offset : offset + count], image.stat().st_size
    )
    assert [part.start for part in table.partitions] == [MIB, ROOT]
    root, boot = Ext4(image, ROOT), esp_of(image)
    root.check()
    boot.check()
    system = look(root, boot)
    assert (system.name, system.python) == ("Debian GNU/Linux 13 (trixie)", "3.13")
    assert (system.boot, system.first_boot) == ("/boot/efi", FirstBoot.OWN)


def test_files_are_roots_and_keep_their_rights(fetched: Path) -> None:
    image = base.at_hand(TRIXIE)

    sudo = stat(image, "/usr/bin/sudo")
    assert "Mode:  04755" in sudo
    assert "User:     0   Group:     0" in sudo
    assert "Group:    42" in stat(image, "/etc/shadow")
    assert Ext4(image, ROOT).read("etc/hostname") == b"edgeslm\n"
    assert f"usr/lib/modules/{KERNEL}/modules.dep" in Ext4(image, ROOT).find(
        [f"usr/lib/modules/{KERNEL}/modules.dep"]
    )


def test_the_boot_partition_starts_the_root_file_system(fetched: Path) -> None:
    image = base.at_hand(TRIXIE)

    esp = f"{image}@@{MIB}"
    listed = programs.run(["mdir", "-/", "-b", "-i", esp, "::"])[0].decode()
    assert "::/EFI/BOOT/BOOTAA64.EFI" in listed
    assert "::/dtb/broadcom/bcm2837-rpi-3-b.dtb" in listed
    entry = programs.run(["mtype", "-i", esp, "::/loader/entries/debian.conf"])[0].decode()
    named = entry.split("UUID=")[1].split()[0]
    assert named in programs.run(["dumpe2fs", "-h", f"{image}?offset={ROOT}"])[0].decode()
    assert esp_of(image).read("vmlinuz") == b"kernel"


def test_older_packages_come_to_where_files_are_now(tmp_path: Path, fetched: Path) -> None:
    moved = {name.replace("usr/bin/", "bin/"): content for name, content in FILES.items()}
    moved = {name.replace("usr/lib/mod", "lib/mod"): content for name, content in moved.items()}
    make_packages(fetched, moved | {"usr/bin/awk": b"awk"}, {})

    root = Ext4(base.at_hand(Recipe("bookworm")), ROOT)

    found = root.find(["bin", "usr/bin/sudo", "usr/bin/awk", f"usr/lib/modules/{KERNEL}"])
    assert found["bin"].link == "usr/bin"
    assert len(found) == 4


def test_it_is_made_once(tmp_path: Path, fetched: Path) -> None:
    assert base.at_hand(TRIXIE) == base.at_hand(TRIXIE) == base.kept(TRIXIE)
    assert (tmp_path / "log").read_text() == "made\n"


def test_what_mmdebstrap_says_is_told_and_nothing_is_kept(fetched: Path) -> None:
    fetched.write_bytes(b"")
    with pytest.raises(Failure, match="no network"):
        base.at_hand(TRIXIE)
    assert list(base.kept(TRIXIE).parent.iterdir()) == []


def test_a_debian_without_a_kernel_is_told(fetched: Path) -> None:
    make_packages(fetched, {name: FILES[name] for name in FILES if "vmlinuz" not in name})
    with pytest.raises(Failure, match="lack a kernel"):
        base.at_hand(TRIXIE)


def test_a_missing_program_is_told_before_anything_is_fetched(
    tmp_path: Path, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(programs.PACKAGES, "no-such-program", "nothing")
    monkeypatch.setattr(base, "PROGRAMS", ("no-such-program",))
    with pytest.raises(NotFound, match="no-such-program"):
        base.at_hand(TRIXIE)
    assert not (tmp_path / "log").exists()


def test_a_bundle_and_settings_are_put_into_it(
    tmp_path: Path, fetched: Path, packed: Path, brought: Brought
) -> None:
    made, output = base.at_hand(TRIXIE), tmp_path / "board.img"
    settings = Settings(hostname="helper")
    with opened(packed, output) as carried:
        load = Load(carried, brought, Service())
        plan = making.plan_image("x", carried, "debian", making.facts(made, load), settings)
        making.make_image(plan, made, output, load, settings)

    told = esp_of(output).read("firstrun.sh")
    assert told is not None
    assert b"echo helper > /etc/hostname" in told
    assert Ext4(output, ROOT).find(["etc/systemd/system/edgeslm.service"])
