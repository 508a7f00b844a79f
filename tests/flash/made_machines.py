"""What Linux says of a machine's disks, as files: a laptop with all that disks can be used for."""

from __future__ import annotations

from pathlib import Path

_GB = 1_000_000_000
_USB = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host4/target4:0:0/4:0:0:0/block"
_SATA = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block"
_MMC = "pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:aaaa/block"
_NVME = "pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0"

MOUNTS = r"""22 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw
23 22 259:1 / /boot/efi rw,relatime shared:2 - vfat /dev/nvme0n1p1 rw
24 22 8:17 / /media/me/My\040stick rw,nosuid - vfat /dev/sdb1 rw
25 22 0:40 /@ /data rw,relatime - btrfs /dev/sdd1 rw
26 22 0:5 / /proc rw - proc proc rw
"""
SWAPS = """Filename\t\t\t\tType\t\tSize\tUsed\tPriority
/dev/sdc2                               partition\t1000\t0\t-2
"""


def make_laptop(root: Path) -> Path:
    """An encrypted system on NVMe; sticks and cards; disks that are mounted or otherwise used."""
    _disk(root, "nvme0n1", "259:0", 512, place=_NVME, model="WD_BLACK SN770")
    _part(root, "nvme0n1", "nvme0n1p1", "259:1", _NVME)
    _part(root, "nvme0n1", "nvme0n1p2", "259:2", _NVME, holders=["dm-0"])
    _disk(root, "dm-0", "253:0", 500, place="virtual/block", mapped="luks", holders=["dm-1"])
    _disk(root, "dm-1", "253:1", 500, place="virtual/block", mapped="vg-root")
    _disk(
        root, "sda", "8:0", 32, place=_USB, model="Ultra           ", vendor="SanDisk ", removable=1
    )
    _part(root, "sda", "sda1", "8:1", _USB)
    _disk(root, "sdb", "8:16", 16, place=_USB, model="Stick", removable=1)
    _part(root, "sdb", "sdb1", "8:17", _USB)
    _disk(root, "sdc", "8:32", 1000, place=_SATA, model="ST1000")
    _part(root, "sdc", "sdc2", "8:34", _SATA)
    _disk(root, "sdd", "8:48", 1000, place=_SATA, model="Data")
    _part(root, "sdd", "sdd1", "8:49", _SATA)
    _disk(root, "sde", "8:64", 1000, place=_SATA, model="Array", holders=["md0"])
    _disk(root, "md0", "9:0", 1000, place="virtual/block")
    _disk(root, "sdf", "8:80", 0, place=_USB, model="Reader", removable=1)
    _disk(root, "sdg", "8:96", 2000, place=_SATA, model="Spare")
    _disk(root, "sdh", "8:112", 4, place=_USB, model="Locked", removable=1, read_only=1)
    _disk(root, "mmcblk0", "179:0", 64, place=_MMC, name="SD64G", kind="SD")
    _disk(root, "mmcblk1", "179:8", 32, place=_MMC, name="DG4032", kind="MMC")
    _disk(root, "mmcblk1boot0", "179:16", 1, place=_MMC)
    for number, name in enumerate(("loop0", "zram0", "sr0")):
        _disk(root, name, f"7:{number}", 1, place="virtual/block")
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "mountinfo").write_text(MOUNTS)
    (root / "proc" / "swaps").write_text(SWAPS)
    return root


def _disk(
    root: Path,
    disk: str,
    number: str,
    gigabytes: int,
    /,
    *,
    place: str,
    removable: int = 0,
    read_only: int = 0,
    holders: list[str] | None = None,
    mapped: str | None = None,
    kind: str | None = None,
    **device: str,
) -> None:
    folder = root / "sys" / "devices" / place / disk
    _write(folder, number, holders)
    (folder / "size").write_text(f"{gigabytes * _GB // 512}\n")
    (folder / "removable").write_text(f"{removable}\n")
    (folder / "ro").write_text(f"{read_only}\n")
    (folder / "diskseq").write_text("7\n")
    if mapped is not None:
        (folder / "dm").mkdir()
        (folder / "dm" / "name").write_text(f"{mapped}\n")
    for key, value in (device | ({} if kind is None else {"type": kind})).items():
        (folder / "device").mkdir(exist_ok=True)
        (folder / "device" / key).write_text(f"{value}\n")
    for link in (root / "sys" / "block" / disk, root / "sys" / "dev" / "block" / number):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)


def _part(
    root: Path, disk: str, name: str, number: str, place: str, holders: list[str] | None = None
) -> None:
    folder = root / "sys" / "devices" / place / disk / name
    _write(folder, number, holders)
    (folder / "partition").write_text("1\n")


def _write(folder: Path, number: str, holders: list[str] | None) -> None:
    (folder / "holders").mkdir(parents=True)
    (folder / "dev").write_text(f"{number}\n")
    for holder in holders or []:
        (folder / "holders" / holder).mkdir()
