"""Which disks a machine has, and whether one may be written over: by what Linux says of them.

Everything is read below a root folder, so that recorded machines can be looked at too. Sources:
Documentation/ABI/stable/sysfs-block of the kernel; proc(5) for mountinfo and swaps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import NotFound, RefusedDevice, Unsupported
from edgeslm.files import small_text
from edgeslm.targets.mounts import mounts
from edgeslm.units import format_bytes

_SECTOR = 512
"""What sysfs counts sizes in, whatever the disk's own sectors are."""
_NO_DISKS = re.compile(r"(ram|zram|dm-|md|sr|fd|nbd|mtdblock)\d")
_BOOT_PART = re.compile(r"mmcblk\d+(boot|rpmb|gp)\d*")
_SYSTEM_FOLDERS = frozenset({"/", "/boot", "/boot/firmware", "/boot/efi", "/usr", "/var", "/home"})


@dataclass(frozen=True)
class Device:
    """One disk.

    Attributes:
        name: As in "sda".
        bytes: Its size; 0 for a reader without a card.
        model: What its maker calls it; may be empty.
        transport: "usb", "mmc", "nvme", "sata", "virtio", "loop", or "" where it is not known.
        removable: Whether it is meant to be taken out: by its own word, or by how it is attached.
        read_only: Whether it refuses to be written.
        mounted: Folders where it or a partition of it is mounted.
        uses: What else holds it, in words: swap, volumes, arrays.
        system: Whether the running system lies on it.
        number: The kernel's number of it, as in "8:0".
        marks: What else tells it from others that get its name later: where it is attached, its
            serial number, and how many disks and cards the machine had seen before it.
    """

    name: str
    bytes: int
    model: str
    transport: str
    removable: bool
    read_only: bool
    mounted: tuple[str, ...]
    uses: tuple[str, ...]
    system: bool
    number: str = ""
    marks: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it is opened."""
        return Path("/dev") / self.name

    def describe(self) -> str:
        """As in "sda (SanDisk Ultra, 31.9 GB)"."""
        size = format_bytes(self.bytes) if self.bytes else "no card in it"
        return f"{self.name} ({', '.join(filter(None, (self.model, size)))})"


def list_devices(root: Path = Path("/")) -> tuple[Device, ...]:
    """All disks that could be meant, those that are removable first; no loop devices.

    Raises:
        Unsupported: not a Linux system.
    """
    blocks = root / "sys" / "block"
    if not blocks.is_dir():
        raise Unsupported(
            "only Linux says which of its disks may be written",
            hint="Write an image (--to board.img), and that with Raspberry Pi Imager.",
        )
    names = sorted(entry.name for entry in blocks.iterdir())
    left_out = re.compile("|".join((_NO_DISKS.pattern, _BOOT_PART.pattern, r"loop\d")))
    found = (_look(root, name) for name in names if not left_out.match(name))
    return tuple(sorted(found, key=lambda device: (not device.removable, device.name)))


def find_device(path: Path, root: Path = Path("/")) -> Device:
    """The disk that a path such as /dev/sda leads to.

    Raises:
        NotFound: there is none.
        RefusedDevice: it is a part of a disk, or something that is no disk.
    """
    name = _resolved(path, root).name
    blocks = root / "sys" / "block"
    if (blocks / name).is_dir():
        if _NO_DISKS.match(name) or _BOOT_PART.match(name):
            raise RefusedDevice(f"{path} is no disk that a board starts from", hint=_LIST)
        return _look(root, name)
    for entry in sorted(blocks.iterdir()) if blocks.is_dir() else ():
        if (entry / name).is_dir():
            raise RefusedDevice(
                f"{path} is a partition of {entry.name}",
                hint=f"Name the whole disk: --to /dev/{entry.name}",
            )
    raise NotFound(f"{path}: no such disk", hint=_LIST)


_LIST = "See which there are: edgeslm flash --list"


def ensure_allowed(device: Device, needed_bytes: int) -> None:
    """Return if a disk may be written over, once somebody has said so.

    Raises:
        RefusedDevice: the system runs from it, it is mounted, in use, write-protected, too small.
    """
    where = device.path
    if device.system:
        raise RefusedDevice(
            f"{where}: this system runs from it; it is never written", hint=f"Name another. {_LIST}"
        )
    if device.mounted:
        raise RefusedDevice(
            f"{where} is in use: mounted at {', '.join(device.mounted)}",
            hint=f"If it is the right one: sudo umount {' '.join(device.mounted)}",
        )
    if device.uses:
        raise RefusedDevice(
            f"{where} is in use: {', '.join(device.uses)}",
            hint="Turn that off first (swapoff, vgchange -an, mdadm --stop), or name another.",
        )
    if device.read_only:
        raise RefusedDevice(f"{where} is write-protected", hint="Look for a switch on the card.")
    if not device.bytes:
        raise RefusedDevice(f"{where}: there is no card in it", hint="Put one in.")
    if device.bytes < needed_bytes:
        raise RefusedDevice(
            f"{where} is too small: it has {format_bytes(device.bytes)}, the image "
            f"{format_bytes(needed_bytes)}",
            hint="Use a larger card or stick.",
        )


def ensure_same(meant: Device, found: Device) -> None:
    """Return if two looks saw one disk, with one card in it.

    Raises:
        RefusedDevice: they did not: it was pulled out meanwhile, or another got its name.
    """
    if _identity(meant) != _identity(found):
        raise RefusedDevice(
            f"{meant.path} is another disk now: it was {meant.describe()}, it is "
            f"{found.describe()}",
            hint=f"Nothing was written. {_LIST}",
        )


def _identity(device: Device) -> tuple[object, ...]:
    return device.name, device.number, device.bytes, device.model, device.marks


def ensure_opened(meant: Device, number: int, root: Path = Path("/")) -> None:
    """Return if what was opened is the disk that was meant, and may still be written.

    Args:
        meant: What was looked at and confirmed.
        number: st_rdev of what is open now, so that no name is looked up once more.
        root: The folder that /sys and /proc lie in.

    Raises:
        RefusedDevice: it is another one, or in use by now.
    """
    numbers = f"{os.major(number)}:{os.minor(number)}"
    folder = root / "sys" / "dev" / "block" / numbers
    if numbers != meant.number or not folder.exists():
        raise RefusedDevice(
            f"{meant.path} is another disk now: its number is {numbers}, it was {meant.number}",
            hint=f"Nothing was written. {_LIST}",
        )
    found = _look(root, Path(os.path.realpath(folder)).name)
    ensure_same(meant, found)
    ensure_allowed(found, 0)


def _look(root: Path, name: str) -> Device:
    folder = root / "sys" / "block" / name
    parts = [entry.name for entry in sorted(folder.iterdir()) if (entry / "partition").exists()]
    names = {name, *parts}
    numbers = {small_text(place / "dev") for place in (folder, *(folder / part for part in parts))}
    holders = sorted(
        {*_holders(folder), *(held for part in parts for held in _holders(folder / part))}
    )
    below = _stacked(root, holders)
    mounted = tuple(dict.fromkeys(_mounts(root, names | below, numbers - {""})))
    swaps = [f"swap on {part}" for part in _swaps(root) if part in names | below]
    transport = _transport(folder, name)
    return Device(
        name=name,
        bytes=int(small_text(folder / "size") or 0) * _SECTOR,
        model=_model(folder),
        transport=transport,
        removable=small_text(folder / "removable") == "1"
        or transport == "usb"
        or (transport == "mmc" and small_text(folder / "device" / "type") == "SD"),
        read_only=small_text(folder / "ro") == "1",
        mounted=mounted,
        uses=(*swaps, *(f"held by {_holder_name(root, held)}" for held in holders)),
        system=any(place in _SYSTEM_FOLDERS for place in mounted),
        number=small_text(folder / "dev"),
        marks=(os.path.realpath(folder), *_serials(folder), small_text(folder / "diskseq")),
    )


def _serials(folder: Path) -> Iterator[str]:
    """What the disk, its card, and the USB device that it is part of are told apart by."""
    for place in ("serial", "device/serial", "device/cid", "device/wwid"):
        yield small_text(folder / place)
    above = Path(os.path.realpath(folder)).parents
    yield next((small_text(up / "serial") for up in above if (up / "idVendor").exists()), "")


def _holders(folder: Path) -> Iterator[str]:
    holders = folder / "holders"
    if holders.is_dir():
        yield from (entry.name for entry in holders.iterdir())


def _stacked(root: Path, holders: list[str]) -> set[str]:
    """The holders and what holds them in turn: volumes on arrays, encrypted disks."""
    found: set[str] = set()
    waiting = list(holders)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _holders(root / "sys" / "block" / name)
    return found


def _holder_name(root: Path, name: str) -> str:
    return small_text(root / "sys" / "block" / name / "dm" / "name") or name


def _mounts(root: Path, names: set[str], numbers: set[str]) -> Iterator[str]:
    """Folders where one of the named devices is mounted, by its number and by its name."""
    mapped = {small_text(root / "sys" / "block" / name / "dm" / "name") for name in names} - {""}
    numbers = numbers | {small_text(root / "sys" / "block" / name / "dev") for name in names} - {""}
    for mount in mounts(root):
        place, _, name = mount.source.rpartition("/")
        by_name = (place == "/dev" and name in names) or (place == "/dev/mapper" and name in mapped)
        if mount.device in numbers or by_name:
            yield mount.place


def _swaps(root: Path) -> Iterator[str]:
    for line in small_text(root / "proc" / "swaps").splitlines()[1:]:
        path, *_ = line.split()
        if path.startswith("/dev/"):
            yield path.rpartition("/")[2]


def _model(folder: Path) -> str:
    device = folder / "device"
    words = (
        small_text(device / "vendor"),
        small_text(device / "model") or small_text(device / "name"),
    )
    return " ".join(" ".join(word.split()) for word in words if word and not word.startswith("0x"))


def _transport(folder: Path, name: str) -> str:
    place = os.path.realpath(folder)
    for prefix, transport in (
        ("mmcblk", "mmc"),
        ("nvme", "nvme"),
        ("vd", "virtio"),
        ("loop", "loop"),
    ):
        if name.startswith(prefix):
            return transport
    if re.search(r"/usb\d+/", place):
        return "usb"
    return "sata" if re.search(r"/ata\d+/", place) else ""


def _resolved(path: Path, root: Path) -> Path:
    """Where links such as /dev/disk/by-id/... lead."""
    below = root / str(path).lstrip("/")
    return Path(os.path.realpath(below)) if below.is_symlink() else path
