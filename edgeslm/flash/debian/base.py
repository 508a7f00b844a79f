"""A bootable Debian made from its packages: a base for images, kept once it is made.

A GPT with two partitions: an EFI system partition with systemd-boot, the kernel, a small initrd and
the device trees, and the root. Nothing is run that is for another processor, nothing is mounted.
"""

from __future__ import annotations

import io
import lzma
import os
import sys
import tarfile
import time
from datetime import date
from pathlib import Path

from edgeslm import progress
from edgeslm.errors import Failure, OutputFailure, Unsupported, reading, writing
from edgeslm.files import atomic_path, cache_folder, exclusive, scratch_folder
from edgeslm.flash import programs
from edgeslm.flash.debian import initrd
from edgeslm.flash.debian.configured import SHIPPED, Disk, configuration
from edgeslm.flash.debian.packages import put, sort, unpack
from edgeslm.flash.debian.recipe import Recipe
from edgeslm.flash.image.sparse import copy_region
from edgeslm.flash.plan import Step
from edgeslm.flash.tree import Entry, Link, Tree
from edgeslm.records import Figure, Provenance

PROGRAMS = ("mmdebstrap", "depmod", "mke2fs", "mkfs.vfat", "mcopy", "sfdisk")
_MIB = 1 << 20
_ESP_START, _ESP_BYTES = _MIB, 256 * _MIB
_ROOT_START = _ESP_START + _ESP_BYTES
_SPARE_BYTES = 96 * _MIB
_MORE = 1.05
"""For the file system's own tables."""
_ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_ROOT_TYPE = "b921b045-1df0-41c3-af44-4c6f280d3fae"
"""The root of a 64-bit ARM (the UAPI group's discoverable partitions)."""
_SECONDS = 180.0

_FILL = """\
set -e
cd "$1"
mkdir system
tar -x -p --numeric-owner -f packages.tar -C system --transform "$5" \
    --exclude='./dev/*' --exclude='./boot/*' --exclude='./usr/lib/linux-image-*'
tar -x -p --numeric-owner -f overlay.tar -C system
for name in bin sbin lib; do test -L system/$name || ln -s usr/$name system/$name; done
"$2" -q -t ext4 -L rootfs -U "$3" -i 8192 -m 1 -E root_owner=0:0 -d system root.ext4 "$4"k
"""
_MERGE = r"s,^\./\(bin\|sbin\|lib\)\(/\|$\),./usr/\1\2,S"
"""For tar: what lies in /bin comes into /usr/bin, but links lead where they led."""


def kept(recipe: Recipe) -> Path:
    """Where the base of a recipe is, or will be.

    Raises:
        OutputFailure: this user has no home.
    """
    folder = cache_folder("debian")
    if folder is None:
        raise OutputFailure(
            "a base has to be kept, and this user has no home", hint="Set EDGESLM_CACHE=FOLDER."
        )
    return folder / f"{recipe.suite}-arm64-{recipe.key}.img"


def step(recipe: Recipe) -> Step:
    """What making it is in a plan."""
    source = "guessed for a laptop and a fast network, not measured; only once"
    seconds = Figure(_SECONDS, Provenance.ESTIMATED, source)
    return Step(f"make a base from the packages of {recipe.name}", 0, seconds)


def age(path: Path) -> str:
    """A sentence on when a base was made, since Debian has newer packages from then on."""
    with reading(path):
        made = date.fromtimestamp(path.stat().st_mtime)
    return f"Its Debian is from {made.isoformat()}; remove {path} to have it made anew."


def at_hand(recipe: Recipe) -> Path:
    """The base of a recipe; made now unless it is there.

    Raises:
        NotFound: a program is not installed; the hint names the package.
        Unsupported: this is no Linux.
        Failure: the packages cannot be had.
        OutputFailure: it cannot be written.
    """
    path = kept(recipe)
    if path.exists():
        return path
    if not sys.platform.startswith("linux"):
        raise Unsupported(
            "a base can be made from Debian's packages on Linux only",
            hint="Use an image such as that of Raspberry Pi OS: --base IMAGE.",
        )
    programs.ensure_installed([*PROGRAMS, *_as_root("")[:1]])
    with exclusive(path.parent, lambda: progress.note("waiting for another one that makes it")):
        if not path.exists():
            began = time.monotonic()
            with atomic_path(path) as image:
                make(recipe, image)
            progress.note(f"made a base in {time.monotonic() - began:.0f} s; kept: {path}")
    return path


def make(recipe: Recipe, image: Path) -> None:
    """Write a base into an empty file.

    Raises:
        Failure, OutputFailure: as for `at_hand`.
    """
    with (
        scratch_folder(image) as folder,
        progress.bar(f"making {recipe.name} for boards, minutes", 4) as advance,
    ):
        unpack(recipe, folder / "packages.tar")
        advance(1)
        size = _prepare(folder, recipe.disk)
        advance(1)
        words = [str(folder), programs.find("mke2fs"), recipe.disk.root, str(size // 1024)]
        merge = _MERGE if recipe.unmerged else "s,^,,"
        _run([*_as_root("--"), "sh", "-c", _FILL, "sh", *words, merge])
        advance(1)
        _make_esp(folder / "esp", folder / "esp.img", recipe.disk.boot)
        _join(image, folder / "esp.img", folder / "root.ext4")
        advance(1)


def _as_root(separator: str) -> list[str]:
    """What makes every file root's, for those who are not."""
    return [] if os.geteuid() == 0 else ["fakeroot", separator]


def _run(command: list[str], stdin: bytes = b"") -> None:
    try:
        programs.run(command, stdin=stdin)
    except Failure as error:
        raise Failure(error.message, hint="Is the disk full? (df)") from error


def _prepare(folder: Path, disk: Disk) -> int:
    """Everything but the root file system: what lies on the boot partition, and overlay.tar.

    Returns:
        The bytes that the root file system needs.
    """
    esp, system = folder / "esp", folder / "kernel"
    modules = system / "lib" / "modules"
    found = sort(folder / "packages.tar", esp, modules, SHIPPED)
    _run(["depmod", "-b", str(system), found.version])
    known = [
        Entry(f"usr/lib/modules/{found.version}/{path.name}", path)
        for path in (modules / found.version).glob("modules.*")
    ]
    overlay = configuration(found.shipped, disk) + Tree.of(known)
    write_tar(overlay, folder / "overlay.tar")
    started = _started(modules / found.version, folder / "initrd", found.busybox)
    put(esp / "initrd.img", io.BytesIO(started))
    put(esp / "loader" / "loader.conf", io.BytesIO(b"timeout 0\n"))
    put(esp / "loader" / "entries" / "debian.conf", io.BytesIO(boot_entry(disk).encode()))
    return int((found.root_bytes + overlay.bytes) * _MORE) + _SPARE_BYTES


def boot_entry(disk: Disk) -> str:
    """What the boot loader starts (the UAPI group's Boot Loader Specification)."""
    options = f"root=UUID={disk.root} ro"
    return f"title Debian\nlinux /vmlinuz\ninitrd /initrd.img\noptions {options}\n"


def _started(modules: Path, folder: Path, busybox: bytes) -> bytes:
    """The initrd: the modules that it needs are unpacked, and depmod tells of them."""
    place = f"lib/modules/{modules.name}"
    there = folder / place
    for name in initrd.wanted(initrd.parse_needs((modules / "modules.dep").read_text())):
        data = (modules / name).read_bytes()
        plain = name.removesuffix(".xz")
        put(there / plain, io.BytesIO(data if plain == name else lzma.decompress(data)))
    for path in modules.glob("modules.builtin*"):
        put(there / path.name, io.BytesIO(path.read_bytes()))
    put(there / "modules.order", io.BytesIO((modules / "modules.order").read_bytes()))
    _run(["depmod", "-b", str(folder), modules.name])
    files = {
        f"usr/{path.relative_to(folder)}": path.read_bytes()
        for path in there.rglob("*")
        if path.is_file() and path.suffix != ".bin"
    }
    return initrd.packed(initrd.contents(busybox, files))


def write_tar(tree: Tree, path: Path) -> None:
    """A tar with all of a tree, with its rights and owners."""
    with writing(path), tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in tree.entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.gid, info.size = entry.mode, entry.uid, entry.gid, entry.size
            if isinstance(entry.content, Path):
                with entry.content.open("rb") as file:
                    tar.addfile(info, file)
            elif isinstance(entry.content, bytes):
                tar.addfile(info, io.BytesIO(entry.content))
            else:
                info.type = tarfile.DIRTYPE
                if isinstance(entry.content, Link):
                    info.type, info.linkname = tarfile.SYMTYPE, entry.content.target
                tar.addfile(info)


def _make_esp(files: Path, image: Path, volume: str) -> None:
    with writing(image):
        image.touch()
        os.truncate(image, _ESP_BYTES)
    _run(["mkfs.vfat", "-F", "32", "-n", "BOOT", "-i", volume, str(image)])
    _run(["mcopy", "-s", "-i", str(image), *map(str, sorted(files.iterdir())), "::"])


def _join(image: Path, esp: Path, root: Path) -> None:
    """Both file systems in one image, with a table that names them."""
    size = root.stat().st_size
    copy_region(esp, 0, _ESP_BYTES, image, _ESP_START)
    copy_region(root, 0, size, image, _ROOT_START)
    with writing(image):
        os.truncate(image, -(-(_ROOT_START + size) // _MIB) * _MIB + _MIB)
    rows = [
        "label: gpt",
        f"start={_ESP_START // 512}, size={_ESP_BYTES // 512}, type={_ESP_TYPE}, name=boot",
        f"start={_ROOT_START // 512}, size={size // 512}, type={_ROOT_TYPE}, name=root",
    ]
    _run(["sfdisk", "-q", str(image)], "\n".join(rows).encode())
