from __future__ import annotations

from made_packages import FILES

from edgeslm.flash.debian.configured import SHIPPED, Disk, configuration
from edgeslm.flash.image.system import boot_mount
from edgeslm.flash.tree import Link

DISK = Disk("6b1f8f7e-3a57-4b0e-9f53-2f2c6c0d1a11", "ED6E51AA")
TREE = configuration({name: FILES[name] for name in SHIPPED}, DISK)
BY_PATH = {entry.path: entry for entry in TREE.entries}


def text(path: str) -> str:
    content = BY_PATH[path].content
    assert isinstance(content, bytes)
    return content.decode()


def test_nobody_can_log_in_and_only_root_reads_the_shadow() -> None:
    names = [line.split(":")[0] for line in text("etc/passwd").splitlines()]
    shadow = [line.split(":") for line in text("etc/shadow").splitlines()]

    assert names == [fields[0] for fields in shadow] == ["root", "daemon"]
    assert {fields[1] for fields in shadow} == {"*"}
    assert (BY_PATH["etc/shadow"].mode, BY_PATH["etc/shadow"].gid) == (0o640, 42)


def test_file_systems_are_found_by_what_the_disk_says() -> None:
    assert f"UUID={DISK.root} / ext4" in text("etc/fstab")
    assert "UUID=ED6E-51AA /boot/efi vfat" in text("etc/fstab")
    assert boot_mount(text("etc/fstab")) == "/boot/efi"


def test_boards_share_no_identity() -> None:
    assert text("etc/machine-id") == ""
    assert not [path for path in BY_PATH if "ssh_host" in path]
    assert "ssh-keygen -A" in text("etc/systemd/system/ssh.service.d/keys.conf")


def test_services_are_enabled_by_links_to_their_units() -> None:
    links = {
        path: entry.content.target
        for path, entry in BY_PATH.items()
        if isinstance(entry.content, Link)
    }
    wanted = "etc/systemd/system/multi-user.target.wants"
    assert links[f"{wanted}/avahi-daemon.service"] == "/usr/lib/systemd/system/avahi-daemon.service"
    tty = "etc/systemd/system/getty.target.wants/getty@tty1.service"
    assert links[tty] == "/usr/lib/systemd/system/getty@.service"
    assert f"{wanted}/ssh.service" not in links  # only where somebody may log in
    for path, target in links.items():
        if target.startswith("/etc"):
            assert target[1:] in BY_PATH, path
