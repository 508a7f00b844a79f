"""What the kernel starts with: busybox, and the modules that reach a disk. Pure.

The kernel unpacks it into memory (Documentation/driver-api/early-userspace/buffer-format.rst) and
runs /init, which loads what the board's devices ask for until the root file system is there.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping

from edgeslm.flash.tree import Entry, Link, Tree

REACHES_A_DISK = (
    *("kernel/fs/ext4", "kernel/crypto/crc32c", "kernel/arch/arm64/crypto/crc"),
    *(
        "kernel/drivers/virtio",
        "kernel/drivers/block/virtio_blk",
        "kernel/drivers/scsi/virtio_scsi",
    ),
    *("kernel/drivers/mmc", "kernel/drivers/nvme/host", "kernel/drivers/ata", "kernel/drivers/ufs"),
    *("kernel/drivers/scsi/sd_mod", "kernel/drivers/usb/storage", "kernel/drivers/usb/host"),
    *("kernel/drivers/usb/dwc2", "kernel/drivers/usb/dwc3", "kernel/drivers/usb/chipidea"),
    *("kernel/drivers/usb/musb", "kernel/drivers/usb/phy", "kernel/drivers/phy"),
    *("kernel/drivers/clk", "kernel/drivers/reset", "kernel/drivers/regulator"),
    *("kernel/drivers/pinctrl", "kernel/drivers/gpio", "kernel/drivers/mfd", "kernel/drivers/soc"),
    *("kernel/drivers/i2c/busses", "kernel/drivers/spmi", "kernel/drivers/mailbox"),
    *("kernel/drivers/firmware", "kernel/drivers/dma", "kernel/drivers/nvmem"),
    *("kernel/drivers/pmdomain", "kernel/drivers/interconnect", "kernel/drivers/iommu"),
    *("kernel/drivers/bus", "kernel/drivers/pci/controller", "kernel/drivers/rpmsg"),
)
"""Disks, cards and sticks, and the clocks, pins, supplies and buses of boards before them."""

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

root= how=ro
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        rw) how=rw ;;
    esac
done

load() {  # what the devices ask for that are known by now
    find /sys/devices -name modalias -exec cat {} + | sort -u | xargs -n 50 modprobe -a -b -q
    modprobe -a -q virtio_blk mmc_block sd_mod ext4
} 2>/dev/null

place() {
    case $root in
        UUID=*|LABEL=*) findfs "$root" ;;
        *) test -b "$root" && echo "$root" ;;
    esac
} 2>/dev/null

tries=0
until found=$(place); do
    tries=$((tries + 1))
    if [ $tries = 120 ]; then
        echo "No root file system ($root) on any disk that was found:"
        cat /proc/partitions
        exec sh
    fi
    load
    usleep 250000
done
mount -t ext4 -o $how "$found" /root || exec sh
for folder in proc sys dev; do mount -o move /$folder /root/$folder; done
exec switch_root /root /sbin/init
"""


def wanted(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The modules that reach a disk, with all that they need, sorted.

    Args:
        needs: As `parse_needs` returns them.
    """
    found: set[str] = set()
    left = [module for module in needs if module.startswith(REACHES_A_DISK)]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += needs.get(module, ())
    return sorted(found)


def parse_needs(modules_dep: str) -> dict[str, list[str]]:
    """What each module needs, by depmod's modules.dep: paths below the folder it lies in."""
    lines = (line.partition(":") for line in modules_dep.splitlines())
    return {module.strip(): needed.split() for module, colon, needed in lines if colon}


def contents(busybox: bytes, modules: Mapping[str, bytes]) -> Tree:
    """All of it.

    Args:
        busybox: The program, linked statically.
        modules: Modules, and what depmod says of them, by their paths in the system.
    """
    folders = [Entry(name, None, 0o755) for name in ("proc", "sys", "dev", "root", "usr/sbin")]
    links = [("sbin", "bin"), ("lib", "usr/lib")]
    return Tree.of(
        [
            *folders,
            *(Entry(name, Link(target), 0o777) for name, target in links),
            Entry("init", INIT.encode(), 0o755),
            Entry("bin/busybox", busybox, 0o755),
            *(Entry(path, content) for path, content in modules.items()),
        ]
    )


def packed(tree: Tree) -> bytes:
    """The archive that the kernel unpacks; the same for the same tree."""
    members = [_member(number, entry) for number, entry in enumerate(tree.entries, 1)]
    return gzip.compress(b"".join([*members, _header("TRAILER!!!", 0, 0, 0)]), 6, mtime=0)


def _member(number: int, entry: Entry) -> bytes:
    if isinstance(entry.content, Link):
        kind, data = stat.S_IFLNK, entry.content.target.encode()
    elif entry.content is None:
        kind, data = stat.S_IFDIR, b""
    else:
        kind = stat.S_IFREG
        data = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
    return _header(entry.path, number, kind | entry.mode, len(data)) + data + bytes(-len(data) % 4)


def _header(path: str, number: int, mode: int, size: int) -> bytes:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4)
