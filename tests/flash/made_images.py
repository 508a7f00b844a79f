"""Images of systems, made by the programs that make them elsewhere."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgeslm.bundle.runtimes import Runtime
from edgeslm.records import to_json

MIB = 1 << 20
BOOKWORM_CMDLINE = (
    "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 "
    "fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
)
TRIXIE_CMDLINE = (
    "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 "
    "fsck.repair=yes rootwait resize\n"
)
ARM64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(44)
"""The first bytes of a program for 64-bit ARM."""
NAMES = {"bookworm": ("12", "3.11", "2.36"), "trixie": ("13", "3.13", "2.41")}
LIBRARIES = "usr/lib/aarch64-linux-gnu"


@dataclass(frozen=True)
class Layout:
    """Where things lie, in bytes."""

    boot_start: int = 8 * MIB
    boot_bytes: int = 512 * MIB
    root_bytes: int = 64 * MIB

    @property
    def root_start(self) -> int:
        return self.boot_start + self.boot_bytes

    @property
    def size(self) -> int:
        return self.root_start + self.root_bytes


EXACT = Layout()
"""As pi-gen lays Raspberry Pi OS out, but for a root that is small."""
SMALL = Layout(boot_start=MIB, boot_bytes=34 * MIB, root_bytes=16 * MIB)


def make_system(folder: Path, version: str) -> Path:
    """The files of a root that say what it is."""
    root = folder / f"root-{version}"
    number, python, glibc = NAMES[version]
    files: dict[str, bytes] = {
        "usr/lib/os-release": (
            f'PRETTY_NAME="Debian GNU/Linux {number} ({version})"\nID=debian\n'
            f'VERSION_CODENAME={version}\nVERSION="{number} ({version})"\n'
        ).encode(),
        "etc/fstab": (
            b"proc            /proc           proc    defaults          0       0\n"
            b"PARTUUID=4e639091-01  /boot/firmware  vfat    defaults          0       2\n"
            b"PARTUUID=4e639091-02  /               ext4    defaults,noatime  0       1\n"
        ),
        "usr/bin/dpkg": ARM64,
        f"{LIBRARIES}/libc.so.6": ARM64
        + f"GNU C Library (Debian GLIBC {glibc}-9) stable release version {glibc}.\n".encode(),
        f"{LIBRARIES}/libstdc++.so.6.0.30": ARM64,
        f"usr/bin/python{python}": ARM64,
        "usr/lib/raspberrypi-sys-mods/imager_custom": b"#!/bin/sh\n",
        "usr/lib/userconf-pi/userconf": b"#!/bin/sh\n",
        "etc/systemd/system/multi-user.target.wants/cron.service": b"",
    }
    if version == "trixie":
        files["usr/bin/cloud-init"] = b"#!/usr/bin/python3\n"
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "etc" / "os-release").symlink_to("../usr/lib/os-release")
    (root / "lib").symlink_to("usr/lib")
    (root / LIBRARIES / "libstdc++.so.6").symlink_to("libstdc++.so.6.0.30")
    for name in ("opt", "var/lib", "boot/firmware", "home"):
        (root / name).mkdir(parents=True)
    return root


def make_image(folder: Path, version: str, layout: Layout = SMALL, *, label: str = "dos") -> Path:
    """An image of Raspberry Pi OS without what makes it large."""
    image = folder / f"{version}-{label}.img"
    end = layout.size + (MIB if label == "gpt" else 0)
    with image.open("wb") as file:
        file.truncate(end)
    kinds = ("c", "83") if label == "dos" else ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "L")
    script = f"label: {label}\n" + ("label-id: 0x4e639091\n" if label == "dos" else "")
    starts = (layout.boot_start, layout.root_start)
    for start, size, kind in zip(
        starts, (layout.boot_bytes, layout.root_bytes), kinds, strict=True
    ):
        script += f"start={start // 512}, size={size // 512}, type={kind}\n"
    _run(["/usr/sbin/sfdisk", "-q", str(image)], script)
    offset, blocks = layout.boot_start // 512, layout.boot_bytes // 1024
    fat = ["/usr/sbin/mkfs.vfat", "-n", "bootfs", "-F", "32", "-s", "1", "--offset", str(offset)]
    _run([*fat, str(image), str(blocks)])
    put_on_boot(image, layout, "config.txt", b"arm_64bit=1\n")
    trixie = version == "trixie"
    cmdline = TRIXIE_CMDLINE if trixie else BOOKWORM_CMDLINE
    put_on_boot(image, layout, "cmdline.txt", cmdline.encode())
    for name in ("user-data", "network-config", "meta-data") if trixie else ():
        put_on_boot(image, layout, name, b"# an example\n")
    root = make_system(folder, version)
    ext4 = ["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-O", "^huge_file,^64bit"]
    more = ["-d", str(root), "-E", f"offset={layout.root_start},root_owner=0:0"]
    _run([*ext4, *more, str(image), f"{layout.root_bytes // 1024}k"])
    return image


def put_on_boot(image: Path, layout: Layout, name: str, content: bytes) -> None:
    place = f"{image}@@{layout.boot_start}"
    subprocess.run(
        ["mcopy", "-o", "-i", place, "-", f"::/{name}"],
        input=content,
        check=True,
        env={"MTOOLS_SKIP_CHECK": "1", "PATH": "/usr/bin:/bin"},
    )


def on_boot(image: Path, layout: Layout, name: str) -> bytes:
    """A file of the boot partition, by mtools."""
    done = subprocess.run(
        ["mtype", "-i", f"{image}@@{layout.boot_start}", f"::/{name}"],
        capture_output=True,
        check=True,
        env={"MTOOLS_SKIP_CHECK": "1", "PATH": "/usr/bin:/bin"},
    )
    return done.stdout


def on_root(image: Path, layout: Layout, command: str) -> str:
    """What debugfs says of the root partition."""
    place = f"{image}?offset={layout.root_start}"
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-R", command, place], capture_output=True, check=True, text=True
    )
    return done.stdout


def make_runtime(folder: Path, python: str = "3.13", **changed: object) -> Path:
    """A runtime that was unpacked for 64-bit ARM, with names that are not plain."""
    package = folder / "site" / "edgeslm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "with blank (dev).tmpl").write_text("x" * 5000)
    (package / "native.so").write_bytes(ARM64 * 2000)
    (folder / "bin").mkdir()
    launcher = folder / "bin" / "edgeslm"
    launcher.write_text("#!/bin/sh\nexec python3 -s -m edgeslm\n")
    launcher.chmod(0o755)
    (folder / "site" / "alias").symlink_to("edgeslm")
    runtime = Runtime(
        *("0123456789abcdef", "aarch64", "armv8-a", (), python, "2.34"),
        *(("libstdc++.so.6",), ("edgeslm-0-py3-none-any.whl",)),
    )
    text = json.dumps({**to_json(runtime), **changed})
    (folder / "runtime.json").write_text(text)
    return folder


def _run(command: list[str], stdin: str = "") -> None:
    subprocess.run(command, input=stdin, text=True, check=True, capture_output=True)
