"""A tar of the form that mmdebstrap writes, with the few files that a base cannot be without."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from made_images import ARM64, LIBRARIES

KERNEL = "6.12.1-arm64"
PASSWD = "root:*:0:0:root:/root:/bin/bash\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
GROUP = "root:*:0:\nsudo:*:27:\nshadow:*:42:\n"
FILES = {
    "usr/share/base-passwd/passwd.master": PASSWD.encode(),
    "usr/share/base-passwd/group.master": GROUP.encode(),
    "usr/share/libc-bin/nsswitch.conf": b"passwd: files\n",
    "usr/share/openssh/sshd_config": b"Include /etc/ssh/sshd_config.d/*.conf\n",
    "usr/share/base-files/profile": b"umask 022\n",
    "usr/share/base-files/dot.bashrc": b"# root's\n",
    "usr/lib/os-release": b'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_CODENAME=trixie\n',
    "usr/bin/dpkg": ARM64,
    "usr/bin/python3.13": ARM64,
    f"{LIBRARIES}/libstdc++.so.6.0.33": ARM64,
    "usr/bin/sudo": b"may become root",
    "usr/bin/busybox": b"busybox",
    "usr/lib/systemd/boot/efi/systemd-bootaa64.efi": b"loader",
    f"boot/vmlinuz-{KERNEL}": b"kernel",
    f"usr/lib/linux-image-{KERNEL}/broadcom/bcm2837-rpi-3-b.dtb": b"device tree",
    f"usr/lib/modules/{KERNEL}/modules.order": b"",
    f"usr/lib/modules/{KERNEL}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
    "etc/hostname": b"the machine that made it\n",
}
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
LINKS |= {f"{LIBRARIES}/libstdc++.so.6": "libstdc++.so.6.0.33"}


def make_packages(
    path: Path, files: dict[str, bytes] = FILES, links: dict[str, str] = LINKS
) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, target in links.items():
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(content), 0o4755 if name.endswith("sudo") else 0o644
            tar.addfile(info, io.BytesIO(content))
    return path
