from __future__ import annotations

from pathlib import Path

from edgeslm.targets.mounts import Mount, mounts

SAID = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 8:17 /a\134b /media/me/My\040stick rw shared:1 master:2 - vfat /dev/sdb1 rw
24 22 0:5 / /short rw - tmpfs
not a line
25 22 0:6 /
"""


def test_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(SAID)

    assert mounts(tmp_path) == (
        Mount("8:1", "/", "/", "ext4", "/dev/sda1", "rw,errors=remount-ro"),
        Mount("8:17", "/a\\b", "/media/me/My stick", "vfat", "/dev/sdb1", "rw"),
        Mount("0:5", "/", "/short", "tmpfs", "", ""),
    )
    assert mounts(tmp_path / "nowhere") == ()


def test_this_machine() -> None:
    assert any(mount.place == "/" for mount in mounts())
