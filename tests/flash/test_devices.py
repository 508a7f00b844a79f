from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_machines import make_laptop

from edgeslm.errors import NotFound, RefusedDevice, Unsupported
from edgeslm.flash.devices import (
    Device,
    ensure_allowed,
    ensure_opened,
    ensure_same,
    find_device,
    list_devices,
)

GB = 1_000_000_000


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_laptop(tmp_path_factory.mktemp("laptop"))


@pytest.fixture(scope="module")
def found(laptop: Path) -> dict[str, Device]:
    return {device.name: device for device in list_devices(laptop)}


def test_what_can_be_taken_out_comes_first(found: dict[str, Device]) -> None:
    assert [(name, device.removable) for name, device in found.items()] == [
        *((name, True) for name in ("mmcblk0", "sda", "sdb", "sdf", "sdh")),
        *((name, False) for name in ("mmcblk1", "nvme0n1", "sdc", "sdd", "sde", "sdg")),
    ]


def test_what_is_said_of_a_stick(found: dict[str, Device]) -> None:
    stick = found["sda"]

    assert stick.describe() == "sda (SanDisk Ultra, 32.0 GB)"
    assert (stick.transport, stick.mounted, stick.uses, stick.system) == ("usb", (), (), False)
    assert found["mmcblk0"].model == "SD64G"
    assert [found[name].transport for name in ("nvme0n1", "sdc", "mmcblk1")] == [
        "nvme",
        "sata",
        "mmc",
    ]


def test_the_system_is_found_through_volumes_and_encryption(found: dict[str, Device]) -> None:
    disk = found["nvme0n1"]

    assert disk.system
    assert disk.mounted == ("/", "/boot/efi")
    with pytest.raises(RefusedDevice, match="this system runs from it"):
        ensure_allowed(disk, 0)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sdb", "mounted at /media/me/My stick"),
        ("sdc", "swap on sdc2"),
        ("sdd", "mounted at /data"),
        ("sde", "held by md0"),
        ("sdf", "no card in it"),
        ("sdh", "write-protected"),
    ],
)
def test_what_is_in_use_is_refused(found: dict[str, Device], name: str, why: str) -> None:
    with pytest.raises(RefusedDevice, match=why):
        ensure_allowed(found[name], GB)


@pytest.mark.parametrize("name", ["sda", "mmcblk0", "sdg", "mmcblk1"])
def test_what_is_free_is_not(found: dict[str, Device], name: str) -> None:
    ensure_allowed(found[name], GB)


def test_too_small(found: dict[str, Device]) -> None:
    ensure_allowed(found["sda"], 32 * GB)
    with pytest.raises(RefusedDevice, match=r"too small: it has 32.0 GB, the image 32.5 GB"):
        ensure_allowed(found["sda"], 32_500_000_000)


def test_a_path_to_a_disk(laptop: Path, found: dict[str, Device]) -> None:
    by_id = laptop / "dev" / "disk" / "by-id"
    by_id.mkdir(parents=True)
    (laptop / "dev" / "sda").touch()
    (by_id / "usb-SanDisk").symlink_to("../../sda")

    assert find_device(Path("/dev/sda"), laptop) == found["sda"]
    assert find_device(Path("/dev/disk/by-id/usb-SanDisk"), laptop) == found["sda"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/dev/sda1", "a partition of sda"),
        ("/dev/dm-1", "no disk"),
        ("/dev/md0", "no disk"),
        ("/dev/mmcblk1boot0", "no disk"),
        ("/dev/zram0", "no disk"),
    ],
)
def test_what_is_no_whole_disk_is_refused(laptop: Path, path: str, why: str) -> None:
    with pytest.raises(RefusedDevice, match=why):
        find_device(Path(path), laptop)


def test_no_such_disk(laptop: Path) -> None:
    with pytest.raises(NotFound):
        find_device(Path("/dev/sdz"), laptop)


def serial_of_usb(disk: Path) -> Path:
    device = next(up for up in disk.resolve().parents if up.name == "1-2")
    (device / "idVendor").write_text("0781\n")
    return device / "serial"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("size", "1000000"),
        ("diskseq", "8"),
        ("device/model", "Other"),
        ("serial", "2"),
        ("usb", "9"),
    ],
)
def test_another_disk_with_the_same_name(tmp_path: Path, file: str, text: str) -> None:
    root = make_laptop(tmp_path / "laptop")
    disk = root / "sys" / "block" / "sda"
    usb = serial_of_usb(disk)
    meant = find_device(Path("/dev/sda"), root)
    ensure_same(meant, find_device(Path("/dev/sda"), root))
    ensure_opened(meant, os.makedev(8, 0), root)

    (usb if file == "usb" else disk / file).write_text(text)
    with pytest.raises(RefusedDevice, match="another disk now"):
        ensure_same(meant, find_device(Path("/dev/sda"), root))
    with pytest.raises(RefusedDevice, match="another disk now"):
        ensure_opened(meant, os.makedev(8, 0), root)


def test_what_is_opened_is_looked_at_again(tmp_path: Path) -> None:
    root = make_laptop(tmp_path / "laptop")
    meant = find_device(Path("/dev/sda"), root)

    for number in (os.makedev(8, 96), os.makedev(9, 9)):
        with pytest.raises(RefusedDevice, match="another disk now"):
            ensure_opened(meant, number, root)
    with (root / "proc" / "self" / "mountinfo").open("a") as mounts:
        mounts.write("27 22 8:1 / /mnt rw - vfat /dev/sda1 rw\n")
    with pytest.raises(RefusedDevice, match="mounted at /mnt"):
        ensure_opened(meant, os.makedev(8, 0), root)


def test_only_linux_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported):
        list_devices(tmp_path)


def test_this_machine_runs_from_none_that_could_be_written() -> None:
    system = [device for device in list_devices() if device.system]
    if not system:
        pytest.skip("this machine's own disk cannot be seen from here")
    for device in system:
        with pytest.raises(RefusedDevice):
            ensure_allowed(device, 0)
