"""The command flash, in this process where that is enough."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeslm.bundle.verification import verify_bundle
from edgeslm.cli import flashing
from edgeslm.cli.flash_told import Told
from edgeslm.cli.flashing import Wanted, carry
from edgeslm.cli.main import app
from edgeslm.errors import InvalidOption, NotFound, RefusedDevice, UserError
from edgeslm.flash import block_device, devices
from edgeslm.flash.image import making
from edgeslm.flash.plan import Plan, Report
from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target

sys.path.append(str(Path(__file__).parent.parent / "flash"))
from made_images import SMALL, make_image, make_runtime, on_boot
from made_machines import make_laptop

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def no_disk_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made laptop's disks have the names of real ones: nothing here may write any."""

    def write_device(*given: object, **more: object) -> None:
        pytest.fail(f"a disk would have been written: {given} {more}")

    monkeypatch.setattr(block_device, "write_device", write_device)


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flash") / "packed"
    pack(tiny_model, folder, target=load_target("rpi5-4gb"))
    return folder


def run(*words: object) -> str:
    """What a command prints; our errors come through."""
    result = RUNNER.invoke(app, ["flash", *map(str, words)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_an_image_with_settings_and_a_list_for_imager(packed: Path, tmp_path: Path) -> None:
    base, runtime = make_image(tmp_path, "trixie"), make_runtime(tmp_path / "runtime")
    for name, text in (("password", "correct horse\n"), ("wifi", "battery staple\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI anna@laptop\n")
    output = tmp_path / "board.img"
    words = ["--base", base, "--runtime", runtime, "--hostname", "pi5", "--user", "anna"]
    words += ["--password-file", tmp_path / "password", "--ssh-key", tmp_path / "key.pub"]
    words += ["--wifi", "Home", "--wifi-password-file", tmp_path / "wifi", "--wifi-country", "DE"]
    words += ["--imager-json", "https://example.org/board.img", "--json"]
    told = json.loads(run(packed, "--to", output, *words))

    assert told["schema"] == "edgeslm.flash/1"
    assert told["report"]["verified_bytes"] == told["report"]["written_bytes"] > 0
    boot = b"".join(on_boot(output, SMALL, name) for name in ("user-data", "network-config"))
    assert b'passwd: "$6$rounds=100000$' in boot
    data = output.read_bytes()
    for secret in (b"correct horse", b"battery staple"):
        assert secret not in data
    (item,) = json.loads((tmp_path / "board.json").read_text())["os_list"]
    assert item["extract_size"] == output.stat().st_size
    assert item["init_format"] == "none"
    for name in ("board.img", "board.json"):
        with pytest.raises(InvalidOption, match=f"{name} is there already"):
            run(packed, "--to", output, "--base", base, "--runtime", runtime, *words[-3:-1])
        (tmp_path / name).unlink()


def test_a_dry_run_writes_nothing(packed: Path, tmp_path: Path) -> None:
    base, runtime = make_image(tmp_path, "bookworm"), make_runtime(tmp_path / "runtime", "3.11")
    words = [packed, "--to", tmp_path / "board.img", "--base", base, "--runtime", runtime]
    before = sorted(tmp_path.iterdir())
    text = run(*words, "--dry-run")
    plan = json.loads(run(*words, "--dry-run", "--json"))["plan"]

    assert "1. copy" in text
    assert "guessed for a laptop" in text
    assert plan["digest"] == f"sha256:{verify_bundle(packed).contents.digest}"
    assert all(step["seconds"]["source"] for step in plan["steps"])
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder(packed: Path, tmp_path: Path) -> None:
    text = run(packed, "--to", tmp_path)

    assert text.startswith("wrote ")
    assert verify_bundle(tmp_path / "edgeslm" / "bundle") == verify_bundle(packed)


def test_what_a_board_runs_it_with_has_to_come_from_somewhere(packed: Path, tmp_path: Path) -> None:
    base = make_image(tmp_path, "trixie")

    with pytest.raises(NotFound, match="brings no runtime"):
        run(packed, "--to", tmp_path / "board.img", "--base", base)


def test_without_a_destination_it_explains() -> None:
    result = RUNNER.invoke(app, ["flash", "packed"])

    assert "--to /dev/NAME" in result.stdout
    assert isinstance(result.exception, InvalidOption)


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_laptop(tmp_path / "laptop")
    look, find = devices.list_devices, devices.find_device
    monkeypatch.setattr(devices, "list_devices", lambda: look(root))
    monkeypatch.setattr(devices, "find_device", lambda path: find(path, root))
    return root


def test_the_disks_there_are(laptop: Path) -> None:
    text = run("--list")
    found = json.loads(run("--list", "--json"))["devices"]

    assert "/dev/sda" in text
    assert "this system runs from it" in text
    assert "mounted at /media/me/My stick" in text
    assert next(device for device in found if device["name"] == "sda")["bytes"] == 32_000_000_000


@pytest.mark.parametrize(
    ("disk", "why"),
    [("nvme0n1", "this system runs"), ("sdb", "mounted at"), ("sdh", "write-protected")],
)
def test_a_disk_that_must_not_be_written(laptop: Path, tmp_path: Path, disk: str, why: str) -> None:
    image = tmp_path / "board.img"
    image.write_bytes(bytes(1024))

    with pytest.raises(RefusedDevice, match=why):
        carry(Wanted(image, yes=True), f"/dev/{disk}")


def test_a_disk_that_is_too_small(laptop: Path, tmp_path: Path) -> None:
    image = tmp_path / "board.img"
    with image.open("wb") as file:
        file.truncate(33_000_000_000)

    with pytest.raises(RefusedDevice, match="too small"):
        carry(Wanted(image, yes=True), "/dev/sda")


def test_a_disk_that_is_another_one_after_the_question(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "board.img"
    image.write_bytes(bytes(1024))

    def confirm(*_: object, **__: object) -> bool:
        (laptop / "sys" / "block" / "sda" / "diskseq").write_text("8\n")
        return True

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(flashing.typer, "confirm", confirm)
    with pytest.raises(RefusedDevice, match="another disk now"):
        carry(Wanted(image), "/dev/sda")


def test_the_disk_that_was_confirmed_is_written(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, written = tmp_path / "board.img", list[object]()
    image.write_bytes(bytes(1024))

    def write_device(plan: Plan, *given: object, **more: object) -> Report:
        written.extend([*given, more])
        return Report(plan, 1024, 1024, 1.0)

    monkeypatch.setattr(block_device, "write_device", write_device)
    carry(Wanted(image, yes=True), "/dev/sda")
    sda = devices.find_device(Path("/dev/sda"))
    assert written == [image, Path("/dev/sda"), {"meant": sda}]


def test_a_disk_for_an_image_that_is_made_first(
    laptop: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, runtime = make_image(tmp_path, "trixie"), make_runtime(tmp_path / "runtime")
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI anna@laptop\n")
    words = [packed, "--to", "/dev/sda", "--base", base, "--runtime", runtime, "--json", "--yes"]
    words += ["--hostname", "pi5", "--user", "anna", "--ssh-key", tmp_path / "key.pub"]
    words += ["--port", 8000]
    sizes: list[int] = []

    def write_device(plan: Plan, image: Path, device: Path, meant: devices.Device) -> Report:
        sizes.append(image.stat().st_size)
        return Report(plan, sizes[0], sizes[0], 1.0)

    monkeypatch.setattr(block_device, "write_device", write_device)
    report = json.loads(run(*words))["report"]
    (step,) = [each for each in report["plan"]["steps"] if each["what"].startswith("write the im")]
    assert abs(step["bytes"] - sizes[0]) <= 8 << 20
    assert report["address"] == "http://pi5.local:8000"
    assert not any("Write it to a card" in note for note in report["notes"])

    (laptop / "sys" / "block" / "sda" / "size").write_text(f"{(sizes[0] - (16 << 20)) // 512}\n")
    monkeypatch.setattr(making, "make_image", lambda *_: pytest.fail("it cannot fit"))
    with pytest.raises(RefusedDevice, match="too small"):
        run(*words)


@pytest.mark.parametrize(("ending", "size"), [(".img.xz", 5000), (".img.gz", 0)])
def test_what_is_packed_is_unpacked_first(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, size: int
) -> None:
    image, written = tmp_path / f"board{ending}", list[bytes]()
    image.write_bytes((lzma if ending == ".img.xz" else gzip).compress(bytes(5000)))

    def write_device(plan: Plan, image: Path, *_: object, **__: object) -> Report:
        written.append(image.read_bytes())
        return Report(plan, 5000, 5000, 1.0)

    monkeypatch.setattr(block_device, "write_device", write_device)
    steps = json.loads(run(image, "--to", "/dev/sda", "--yes", "--json"))["report"]["plan"]["steps"]
    assert written == [bytes(5000)]
    assert [step["bytes"] for step in steps] == [size, size, 0]
    assert all((step["seconds"]["value"] is None) == (size == 0) for step in steps[1:])


def test_nobody_to_ask(laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "board.img"
    image.write_bytes(bytes(1024))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    with pytest.raises(InvalidOption, match="Everything on sda"):
        carry(Wanted(image), "/dev/sda")
    with pytest.raises(InvalidOption, match="built in"):
        carry(Wanted(image, yes=True), "/dev/sdg")


@pytest.mark.parametrize(("typed", "goes_on"), [("sdg", True), ("y", False), ("sda", False)])
def test_the_name_of_a_built_in_disk_is_typed(
    laptop: Path, monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(flashing.typer, "prompt", lambda *_, **__: typed)
    device = devices.find_device(Path("/dev/sdg"))

    if goes_on:
        flashing._confirm(device, Wanted(None))
    else:
        with pytest.raises(InvalidOption, match="another name"):
            flashing._confirm(device, Wanted(None, yes=True))


@pytest.mark.parametrize(
    ("wanted", "to", "why"),
    [
        (Wanted(Path("x.img"), Told(hostname="a")), "/dev/sda", "--hostname"),
        (Wanted(Path("x.img"), runtime=Path("y")), "/dev/sda", "--runtime"),
        (Wanted(Path("x.img"), port=80), "/dev/sda", "--port"),
        (Wanted(Path("x"), base=Path("b"), imager_json="http://x/y"), "/dev/sda", "--imager-json"),
        (Wanted(Path("x"), base=Path("b"), imager_json="board.img"), "new.img", "not an address"),
        (Wanted(Path("x"), base=Path("b"), port=0), "new.img", "not a port"),
        (Wanted(Path("x"), base=Path("b"), trust=(Path("k.pub"),)), "new.img", "k.pub"),
        (Wanted(Path("x"), Told(user="a")), "FOLDER", "--hostname"),
        (Wanted(Path("x"), port=80), "FOLDER", "--port"),
        (Wanted(Path("x"), trust=(Path("key.pub"),)), "FOLDER", "--trust"),
        (Wanted(Path("x")), "new.img", "an image is made from another one"),
        (Wanted(None), "FOLDER", "needs a bundle"),
        (Wanted(Path("x")), "new.iso", "not a destination"),
        (Wanted(Path("x")), f"{'a' * 300}/board.img", "a" * 300),
        (Wanted(Path("x"), Told(wifi="a"), base=Path("b")), "new.img", "in which country"),
        (Wanted(Path("x"), Told(wifi_country="DE"), base=Path("b")), "new.img", "--wifi"),
    ],
)
def test_what_makes_no_sense(
    laptop: Path, tmp_path: Path, wanted: Wanted, to: str, why: str
) -> None:
    with pytest.raises(UserError) as raised:
        carry(wanted, str(tmp_path) if to == "FOLDER" else to)
    assert why in f"{raised.value.message} {raised.value.hint}"


def test_a_base_that_is_not_there(packed: Path, tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path / "runtime")
    words = ["--to", tmp_path / "board.img", "--base", tmp_path / "none.img", "--runtime", runtime]

    with pytest.raises(NotFound):
        run(packed, *words)
