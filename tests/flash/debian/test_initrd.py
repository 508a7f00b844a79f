from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

from edgeslm.flash.debian.initrd import INIT, contents, packed, parse_needs, wanted
from edgeslm.flash.tree import Link

DEP = """\
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/lib/crc16.ko.xz:
kernel/sound/soundcore.ko.xz:
kernel/drivers/mmc/host/dw_mmc.ko: kernel/drivers/mmc/core/mmc_core.ko
kernel/drivers/mmc/core/mmc_core.ko:
"""


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Modes and bytes by name, as the kernel's buffer-format.rst says; in the order of a file."""
    data, found, at = gzip.decompress(archive), {}, 0
    while True:
        assert data[at : at + 6] == b"070701" and at % 4 == 0
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 109 + name_size].decode()
        at += -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at : at + size])
        at += -(-size // 4) * 4


def test_what_reaches_a_disk_comes_with_what_it_needs() -> None:
    assert wanted(parse_needs(DEP)) == [
        "kernel/drivers/mmc/core/mmc_core.ko",
        "kernel/drivers/mmc/host/dw_mmc.ko",
        "kernel/fs/ext4/ext4.ko.xz",
        "kernel/fs/jbd2/jbd2.ko.xz",
        "kernel/lib/crc16.ko.xz",
    ]


def test_the_archive_holds_all_in_an_order_that_can_be_unpacked() -> None:
    tree = contents(b"busybox", {"usr/lib/modules/6/kernel/x.ko": b"odd"})
    found = unpacked(packed(tree))

    assert found["init"] == (0o100755, INIT.encode())
    assert found["bin/busybox"] == (0o100755, b"busybox")
    assert found["usr/lib/modules/6/kernel/x.ko"] == (0o100644, b"odd")
    assert found["lib"] == (0o120777, b"usr/lib")
    assert found["dev"][0] == 0o040755
    names = list(found)
    for name in names:
        folder = name.rpartition("/")[0]
        assert not folder or names.index(folder) < names.index(name)
    links = {entry.path for entry in tree.entries if isinstance(entry.content, Link)}
    assert not [name for name in names if name.split("/")[0] in links and "/" in name]


def test_the_same_tree_gives_the_same_bytes() -> None:
    tree = contents(b"busybox", {})
    assert packed(tree) == packed(tree)


def test_the_script_is_one_that_a_shell_can_read(tmp_path: Path) -> None:
    script = tmp_path / "init"
    script.write_text(INIT)
    subprocess.run(["sh", "-n", script], check=True)
