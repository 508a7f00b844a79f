"""Whole images: bases of Raspberry Pi OS's form, filled, and looked at with others' programs."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_images import (
    BOOKWORM_CMDLINE,
    EXACT,
    LIBRARIES,
    MIB,
    SMALL,
    Layout,
    make_image,
    on_boot,
    on_root,
)
from made_wheels import make_runtimes

from edgeslm.bundle.planning import Parts
from edgeslm.bundle.store import Store
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.cli import flashing
from edgeslm.errors import Failure, InvalidImage, NotFound, OutputFailure, Unsupported
from edgeslm.estimate.prediction import predict
from edgeslm.flash import programs
from edgeslm.flash.carried import Load, opened
from edgeslm.flash.image import making
from edgeslm.flash.image.ext4 import Ext4
from edgeslm.flash.image.making import Made, facts, plan_image
from edgeslm.flash.image.settings import Settings, Wifi
from edgeslm.flash.image.sparse import copy_region
from edgeslm.flash.image.system import FirstBoot
from edgeslm.flash.runtimes import Brought
from edgeslm.flash.service import Service
from edgeslm.flash.tree import Entry, Link, Tree
from edgeslm.flash.wheels.tags import Device
from edgeslm.gguf.validation import read_model
from edgeslm.targets.loading import load_target

LARGER = Layout(MIB, 34 * MIB, 128 * MIB)
TOLD = Settings(
    hostname="pi5",
    user="anna",
    password_hash="$6$rounds=1000$salt$hash",
    wifi=Wifi("Home", "ab" * 32, "DE"),
    ssh=True,
)


def make(
    packed: Path, brought: Brought, base: Path, output: Path, settings: Settings = TOLD
) -> Made:
    with opened(packed, output) as carried:
        load = Load(carried, brought, Service())
        plan = plan_image(str(output), carried, str(base), facts(base, load), settings)
        return making.make_image(plan, base, output, load, settings)


@contextmanager
def added(packed: Path, brought: Brought, python: str, folder: Path) -> Iterator[Tree]:
    """What lies in an image that was made so."""
    major, minor = map(int, python.split("."))
    with opened(packed, folder / "x") as carried:
        load = Load(carried, brought, Service())
        yield load.tree(brought.choose(Device("aarch64", (major, minor))), folder / "scratch")


def check_file_systems(image: Path, layout: Layout, folder: Path) -> None:
    """Both partitions, by their own checkers, each in a file of its own."""
    parts = {"boot": (layout.boot_start, layout.boot_bytes)}
    parts["root"] = (layout.root_start, image.stat().st_size - layout.root_start)
    for name, (start, size) in parts.items():
        alone = folder / name
        alone.touch()
        copy_region(image, start, size, alone)
        check = ["/usr/sbin/fsck.vfat", "-n"] if name == "boot" else ["/usr/sbin/e2fsck", "-fn"]
        done = subprocess.run([*check, alone], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_bookworm_in_its_exact_layout(packed: Path, brought: Brought, tmp_path: Path) -> None:
    base, output = make_image(tmp_path, "bookworm", EXACT), tmp_path / "board.img"
    made = make(packed, brought, base, output)

    assert made.system.version == "bookworm"
    assert output.stat().st_mode & 0o777 == 0o600  # a password's hash and a network's key are in it
    assert made.system.first_boot is FirstBoot.SYSTEMD
    assert output.stat().st_size == made.bytes > base.stat().st_size
    assert output.stat().st_blocks * 512 < 100 * MIB
    check_file_systems(output, EXACT, tmp_path)
    script = on_boot(output, EXACT, "firstrun.sh").decode()
    assert "imager_custom set_hostname pi5" in script
    assert "$6$rounds=1000$salt$hash" in script
    line = on_boot(output, EXACT, "cmdline.txt").decode()
    assert line.startswith(BOOKWORM_CMDLINE.rstrip() + " systemd.run=/boot/firmware/firstrun.sh ")
    assert on_boot(output, EXACT, "config.txt") == b"arm_64bit=1\n"
    with added(packed, brought, "3.11", tmp_path) as tree:
        assert made.report.verified_bytes >= tree.bytes
        current = _current(tree)
    # what was there stays, and what came is root's
    assert "Mode:  0755" in on_root(output, EXACT, "stat /etc")
    assert "bookworm" in on_root(output, EXACT, "cat /usr/lib/os-release")
    launcher = f"/opt/edgeslm/{current}/bin/edgeslm"
    told = on_root(output, EXACT, f"stat {launcher}")
    assert "Mode:  0755" in told
    assert "User:     0   Group:     0" in told
    wants = "/etc/systemd/system/multi-user.target.wants"
    link = on_root(output, EXACT, f"stat {wants}/edgeslm.service")
    assert 'Fast link dest: "/etc/systemd/system/edgeslm.service"' in link
    cron = on_root(output, EXACT, f"stat {wants}/cron.service")
    assert "Type: regular" in cron


def test_trixie_with_a_gpt_and_packed(packed: Path, brought: Brought, tmp_path: Path) -> None:
    plain, output = make_image(tmp_path, "trixie", label="gpt"), tmp_path / "board.img"
    base = tmp_path / "base.img.xz"
    base.write_bytes(lzma.compress(plain.read_bytes(), preset=0))
    made = make(packed, brought, base, output)

    assert made.system.first_boot is FirstBoot.CLOUD_INIT
    assert made.system.python == "3.13"
    done = subprocess.run(["/usr/sbin/sfdisk", "--verify", output], capture_output=True, text=True)
    assert "No errors" in done.stdout
    assert on_boot(output, SMALL, "user-data").startswith(b'#cloud-config\nhostname: "pi5"\n')
    assert b'"Home":' in on_boot(output, SMALL, "network-config")
    assert b"instance-id: edgeslm-" in on_boot(output, SMALL, "meta-data")
    assert b" ds=nocloud;i=edgeslm-" in on_boot(output, SMALL, "cmdline.txt")
    Ext4(output, SMALL.root_start).check()


def test_nothing_told_leaves_the_boot_partition_alone(
    packed: Path, brought: Brought, tmp_path: Path
) -> None:
    base, output = make_image(tmp_path, "trixie"), tmp_path / "board.img"
    make(packed, brought, base, output, Settings())

    def boot(image: Path) -> bytes:
        with image.open("rb") as file:
            file.seek(SMALL.boot_start)
            return file.read(SMALL.boot_bytes)

    assert boot(output) == boot(base)
    assert output.stat().st_mode == base.stat().st_mode


@pytest.fixture(scope="module")
def filled(packed: Path, brought: Brought, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    make(packed, brought, make_image(folder, "trixie"), folder / "board.img")
    return folder / "board.img"


def test_an_image_can_be_a_base_again(
    packed: Path, brought: Brought, filled: Path, tmp_path: Path
) -> None:
    output = tmp_path / "again.img"
    make(packed, brought, filled, output)

    check_file_systems(output, SMALL, tmp_path)


def test_what_was_changed_afterwards_is_noticed(
    packed: Path, brought: Brought, filled: Path, tmp_path: Path
) -> None:
    image = tmp_path / "changed.img"
    shutil.copy(filled, image)
    root = Ext4(image, SMALL.root_start)
    with added(packed, brought, "3.13", tmp_path) as tree:
        site = f"opt/edgeslm/{_current(tree)}/site/edgeslm"
    assert root.verify(tree, lambda _: None) == tree.bytes
    for command in (f"sif /{site}/native.so mode 0100600", f"sif /{site}/native.so uid 5"):
        shutil.copy(filled, image)
        _debugfs(image, command)
        with pytest.raises(making.Failure, match="reads back differently"):
            root.verify(tree, lambda _: None)
    blob = max(packed.joinpath("blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(image.read_bytes())
    at = data.find(blob.read_bytes()[:4096])
    data[at + 100] ^= 1
    shutil.copy(filled, image)
    with image.open("r+b") as file:
        file.seek(at + 100)
        file.write(data[at + 100 : at + 101])
    with pytest.raises(making.Failure, match="reads back differently"):
        root.verify(tree, lambda _: None)


def test_files_that_stood_there_are_replaced_and_folders_are_not(tmp_path: Path) -> None:
    image = make_image(tmp_path, "bookworm")
    root = Ext4(image, SMALL.root_start)
    odd = tmp_path / 'a "new"\nline'
    odd.write_bytes(b"y" * 5000)
    tree = Tree.of(
        [
            Entry("opt/odd", odd),
            Entry("etc/fstab", b"other\n", 0o600, 1000, 100_000),
            Entry("etc/os-release", b"a file now\n"),
            Entry("opt/link", Link("nowhere")),
            Entry("opt/long", Link('a "long" way/' * 5)),
            Entry("opt/empty", b""),
            Entry("opt/a blank/b", b"x" * 3_000_000),
        ]
    )
    for _ in range(2):
        root.add(tree)
        root.check()
        assert root.verify(tree, lambda _: None) == tree.bytes
    assert root.read("etc/fstab") == b"other\n"
    with pytest.raises(InvalidImage, match="in the way"):
        root.add(Tree.of([Entry("etc", b"")]))


def test_a_link_that_leads_elsewhere_is_noticed(tmp_path: Path) -> None:
    root = Ext4(make_image(tmp_path, "bookworm"), SMALL.root_start)

    def links(last: str) -> list[Tree]:
        """Short ones, and those that the file system keeps as it keeps files."""
        made = (Entry(f"opt/{n}", Link("a" * (n - 1) + last), 0o777) for n in (5, 59, 60, 300))
        return [Tree.of([entry]) for entry in made]

    root.add(sum(links("a"), Tree(())))
    for same, other in zip(links("a"), links("b"), strict=True):
        root.verify(same, lambda _: None)
        with pytest.raises(Failure, match="reads back differently"):
            root.verify(other, lambda _: None)


def test_a_base_that_is_damaged(packed: Path, brought: Brought, tmp_path: Path) -> None:
    base, output = make_image(tmp_path, "bookworm"), tmp_path / "board.img"
    with base.open("r+b") as file:
        file.seek(SMALL.root_start + 5 * 1024)
        file.write(b"\xff" * 400_000)

    with pytest.raises(InvalidImage):
        make(packed, brought, base, output)
    assert not output.exists()
    assert [path.name for path in tmp_path.glob(".edgeslm-*")] == []


@pytest.mark.parametrize("target", ["rpi5-4gb", "rpi-zero-2w", None])
def test_with_nothing_but_a_bundle_and_a_base(
    tiny_model: Path, tmp_path: Path, target: str | None
) -> None:
    wheels, output = tmp_path / "wheels", tmp_path / "board.img"
    wheels.mkdir()
    sets = {"armv8-a": (), "armv8.2-a+dotprod": ("asimddp",)}
    listed = make_runtimes(wheels, "3.11", sets=sets)
    parts = Parts(
        model=tiny_model,
        wheels=sorted(wheels.glob("*.whl")),
        runtimes=(wheels / "runtime.json").read_bytes(),
        prediction=target and predict(read_model(tiny_model), load_target(target)),
    )
    write_bundle(tmp_path / "packed", parts)
    base = make_image(tmp_path, "bookworm")
    flashing.carry(flashing.Wanted(tmp_path / "packed", base=base), str(output))

    best = "armv8.2-a+dotprod" if target == "rpi5-4gb" else "armv8-a"
    (runtime,) = [each for each in listed.runtimes if each.march == best]
    current = on_root(output, SMALL, "stat /opt/edgeslm/current")
    assert f'Fast link dest: "runtimes/{runtime.id}"' in current
    program = on_root(output, SMALL, "cat /opt/edgeslm/current/bin/edgeslm")
    assert "exec /usr/bin/python3.11 -m edgeslm" in program
    library = on_root(output, SMALL, "cat /opt/edgeslm/current/site/llama/lib/libllama.so")
    assert library == best
    _debugfs(output, f"rdump /var/lib/edgeslm/store {tmp_path}")
    (version,) = Store(tmp_path / "store").versions()
    assert version.current
    assert version.digest == f"sha256:{verify_bundle(tmp_path / 'packed').contents.digest}"
    unit = on_root(output, SMALL, "cat /etc/systemd/system/edgeslm.service").splitlines()
    limits = [f"MemoryMax={load_target(target).memory.free_bytes}"] if target else []
    assert [line for line in unit if line.startswith("MemoryMax")] == limits


@pytest.mark.parametrize("wrong", ["i386", "python", "alpine", "old", "glibc", "library"])
def test_systems_that_cannot_be_used(
    packed: Path, brought: Brought, tmp_path: Path, wrong: str
) -> None:
    base, output = make_image(tmp_path, "bookworm"), tmp_path / "board.img"
    (tmp_path / "glibc").write_bytes(b"release version 2.31")
    (tmp_path / "i386").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x03\x00")
    libraries = f"/{LIBRARIES}"
    commands = {
        "i386": ["rm /usr/bin/dpkg", "cd /usr/bin", f"write {tmp_path}/i386 dpkg"],
        "python": ["rm /usr/bin/python3.11"],
        "alpine": ["rm /usr/lib/os-release"],
        "old": ["rm /usr/bin/python3.11", "cd /usr/bin", f"write {tmp_path}/i386 python3.10"],
        "glibc": [
            f"rm {libraries}/libc.so.6",
            f"cd {libraries}",
            f"write {tmp_path}/glibc libc.so.6",
        ],
        "library": [f"rm {libraries}/libstdc++.so.6"],
    }
    _debugfs(base, *commands[wrong])

    why = {
        "i386": "is for",
        "python": "no Python",
        "alpine": "no Linux system",
        "old": "Python 3.10, too old",
        "glibc": "needs glibc 2.34, this system has 2.31",
        "library": "lacks libstdc",
    }
    with pytest.raises((InvalidImage, Unsupported), match=why[wrong]):
        make(packed, brought, base, output)
    assert not output.exists()


def test_a_disk_without_room(
    packed: Path, brought: Brought, tmp_path: Path, small_disk: Path
) -> None:
    base = make_image(tmp_path, "bookworm")

    with pytest.raises(OutputFailure, match="free"):
        make(packed, brought, base, small_disk / "board.img")
    assert list(small_disk.iterdir()) == []


def test_the_room_that_it_takes(packed: Path, brought: Brought, tmp_path: Path) -> None:
    """No more than was said beforehand, though the root is moved to be resized."""
    base = make_image(tmp_path, "bookworm", LARGER)
    with base.open("r+b") as file:
        at = LARGER.root_start + 40 * MIB
        file.seek(at)
        file.write(b"\1" * 48 * MIB)
    with opened(packed, tmp_path / "x") as carried:
        known = facts(base, Load(carried, brought, Service()))
    disk = tmp_path / "disk"
    disk.mkdir()
    room = f"size={known.room_bytes + 24 * MIB}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", disk], check=False).returncode:
        pytest.skip("only root can mount a disk of this size")
    try:
        made = make(packed, brought, base, disk / "board.img")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert known.base_disk_bytes > 48 * MIB
    assert known.image_bytes is not None
    assert abs(known.image_bytes - made.bytes) <= 8 * MIB


def test_what_is_not_known_of_a_packed_base_is_not_said(
    packed: Path, brought: Brought, tmp_path: Path
) -> None:
    base = tmp_path / "base.img.gz"
    base.write_bytes(gzip.compress(b"x"))
    with opened(packed, tmp_path / "x") as carried:
        known = facts(base, Load(carried, brought, Service()))
        plan = plan_image("board.img", carried, str(base), known, Settings())

    assert known.image_bytes is None
    assert (plan.steps[0].bytes, plan.steps[0].seconds.value) == (0, None)
    assert not any("the image gets" in note for note in plan.notes)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(programs, "_PLACES", ("/nowhere",))

    with pytest.raises(NotFound, match="debugfs, mcopy") as raised:
        programs.ensure_installed(["debugfs", "mcopy"])
    assert "apt install e2fsprogs mtools" in str(raised.value.hint)


@pytest.mark.parametrize("stage", [(making, "read_table"), (Ext4, "add"), (Ext4, "verify")])
def test_interrupted_it_leaves_nothing(
    packed: Path,
    brought: Brought,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: tuple[object, str],
) -> None:
    """When the base was unpacked, before it is filled, and before the last look at it."""
    base, folder = make_image(tmp_path, "bookworm"), tmp_path / "out"
    folder.mkdir()

    def interrupted(*_: object) -> None:
        assert any(path.stat().st_size > MIB for path in folder.glob(".edgeslm-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(*stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(packed, brought, base, folder / "board.img")
    assert list(folder.iterdir()) == []


def test_no_boot_partition_no_settings(packed: Path, brought: Brought, tmp_path: Path) -> None:
    base, output = make_image(tmp_path, "bookworm"), tmp_path / "board.img"
    with base.open("r+b") as file:
        file.seek(SMALL.boot_start)
        file.write(bytes(4096))

    with pytest.raises(Unsupported, match="no way of being told"):
        make(packed, brought, base, output)
    made = make(packed, brought, base, output, Settings())
    assert made.system.first_boot is FirstBoot.NONE


def _current(tree: Tree) -> str:
    link = next(entry.content for entry in tree.entries if entry.path == "opt/edgeslm/current")
    assert isinstance(link, Link)
    return link.target


def _debugfs(image: Path, *commands: str) -> None:
    place = f"{image}?offset={SMALL.root_start}"
    program = ["/usr/sbin/debugfs", "-w", "-f", "-", place]
    subprocess.run(program, input="\n".join(commands), text=True, check=True, capture_output=True)
