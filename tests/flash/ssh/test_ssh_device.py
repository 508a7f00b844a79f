"""Files on their way to a board, and boards that two want at once."""

from __future__ import annotations

import fcntl
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from made_boards import MadeBoard

from edgeslm.errors import HostFailure, OutputFailure
from edgeslm.flash.ssh import device as device_module
from edgeslm.flash.ssh import services
from edgeslm.flash.ssh.board import Rights
from edgeslm.flash.ssh.carrying import tidy
from edgeslm.flash.ssh.destination import parse_destination
from edgeslm.flash.ssh.device import Device

DATA = bytes(range(256)) * 20_000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def device(board: MadeBoard) -> Iterator[Device]:
    with closing(Device(parse_destination(board.to), board.machine.config)) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def send(device: Device, there: Path, file: Path, digest: str = DIGEST) -> tuple[int, int]:
    """How much was sent, and how much was said to be there in the end."""
    told: list[int] = []
    return device.send(str(there), file, len(DATA), digest, told.append), sum(told)


def test_sent_once(device: Device, board: MadeBoard, file: Path) -> None:
    there = board.root / "some/where"
    assert send(device, there, file) == (len(DATA), len(DATA))
    assert there.read_bytes() == DATA
    assert send(device, there, file) == (0, len(DATA))
    assert [path.name for path in there.parent.iterdir()] == ["where"]


@pytest.mark.parametrize("count", [1, 300_000, len(DATA)])
def test_gone_on_with(device: Device, board: MadeBoard, file: Path, count: int) -> None:
    there = board.root / "where"
    board.root.mkdir(exist_ok=True)
    there.with_name("where.part").write_bytes(DATA[:count])
    assert send(device, there, file) == (len(DATA) - count, len(DATA))
    assert there.read_bytes() == DATA


@pytest.mark.parametrize("wrong", [b"x" * 1000, DATA + b"x"], ids=["other", "longer"])
def test_a_wrong_beginning_is_sent_anew(
    device: Device, board: MadeBoard, file: Path, wrong: bytes
) -> None:
    there = board.root / "where"
    board.root.mkdir(exist_ok=True)
    there.with_name("where.part").write_bytes(wrong)
    assert send(device, there, file)[0] == len(DATA)
    assert there.read_bytes() == DATA


def test_what_arrives_damaged_gets_no_name(device: Device, board: MadeBoard, file: Path) -> None:
    there = board.root / "where"
    with pytest.raises(HostFailure, match="file arrived damaged"):
        send(device, there, file, "0" * 64)
    assert [path.name for path in there.parent.glob("where*")] == []


def test_a_file_that_ends_early(device: Device, board: MadeBoard, file: Path) -> None:
    there = board.root / "where"
    file.write_bytes(DATA[:5000])
    with pytest.raises(HostFailure, match="the connection ended"):
        send(device, there, file)
    assert not there.exists()
    file.write_bytes(DATA)
    assert send(device, there, file)[0] == len(DATA) - 5000


def test_a_cut_connection(device: Device, board: MadeBoard, file: Path) -> None:
    there, told = board.root / "where", list[int]()

    def advance(count: int) -> None:
        told.append(count)
        if len(told) == 3:
            part, until = there.with_name("where.part"), time.monotonic() + 20
            while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
                time.sleep(0.01)
            board.cut()

    with pytest.raises(HostFailure) as caught:
        device.send(str(there), file, len(DATA), DIGEST, advance)
    assert "goes on where it was" in (caught.value.hint or "")
    assert not there.exists()
    assert send(device, there, file)[0] < len(DATA)
    assert there.read_bytes() == DATA


def test_a_full_disk(
    device: Device, small_disk: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # run without ssh: the board has mounts of its own, and would not see this one
    monkeypatch.setattr(device.connection, "command", lambda line: ["sh", "-c", line])
    with pytest.raises(OutputFailure, match=r"no room for file \(5\.12 MB, .* free\)"):
        send(device, small_disk / "where", file)
    assert not (small_disk / "where").exists()


def test_others_wait(device: Device, board: MadeBoard) -> None:
    lock = board.root / "var/lib/edgeslm/flash.lock"
    lock.parent.mkdir(parents=True)
    target = board.root / "text"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(
            target=lambda: device.call("write", files={str(target): "a \u00e4 '\n"})
        )
        thread.start()
        thread.join(1)
        assert thread.is_alive()
        assert not target.exists()
    thread.join(20)
    assert target.read_text() == "a \u00e4 '\n"


def test_links_are_not_followed(device: Device, board: MadeBoard, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (board.root / "etc").mkdir(parents=True)
    (board.root / "etc" / "link").symlink_to(precious)
    device.call("remove", paths=[str(board.root / "etc/link")], if_empty=[])
    assert (precious / "file").exists()
    assert not (board.root / "etc/link").is_symlink()


def test_words_of_the_board_reach_no_shell(device: Device, board: MadeBoard) -> None:
    board.root.mkdir(exist_ok=True)
    words = ["printf", "%s\n", "a b", "$(id)", "';", "\u00e4", ""]
    assert device.run(words).splitlines() == words[2:]


def test_a_program_that_is_not_there(device: Device) -> None:
    with pytest.raises(HostFailure, match="no-such-program: No such file"):
        device.run(["no-such-program"])


def test_what_a_shell_says_before_is_passed_over(
    device: Device, board: MadeBoard, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = device.connection.command
    monkeypatch.setattr(device.connection, "command", lambda line: plain(f"echo Welcome; {line}"))
    assert device.look().looked.architecture
    assert device.run(["echo", "words"]) == "words\n"
    assert send(device, board.root / "where", file)[0] == len(DATA)


def test_a_board_that_fails_to_answer_says_why(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "echo rights none; echo no memory left >&2; exit 3"
    monkeypatch.setattr(device_module, "question", lambda _: line)
    with pytest.raises(HostFailure, match="no memory left"):
        device.look()


def test_a_service_that_systemd_does_not_know_is_no_obstacle(
    device: Device, board: MadeBoard
) -> None:
    unit = device.board.unit_file
    device.call("write", files={unit: "[Unit]\n"})  # and interrupted, before it was enabled
    device.look()
    services.stop(device)
    assert board.calls() == ["disable --now edgeslm.service"]


def test_what_an_interrupted_uninstalling_left_goes(device: Device, board: MadeBoard) -> None:
    left = board.root / "var/lib/edgeslm.edgeslm-gone/store"
    left.mkdir(parents=True)
    tidy(device)
    assert [path.name for path in (board.root / "var/lib").iterdir()] == ["edgeslm"]


def test_rights_by_sudo(device: Device) -> None:
    """There is none on this machine: only what would be run is looked at."""
    device.board = replace(device.board, rights=Rights.SUDO)
    assert device._agent("look", "-").startswith("sudo -n /")
