"""Boards that run, flashed over a real ssh: by the command, as a user would."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

import made_bundles
import pytest
from flashing_boards import Bundles, ask, command, environment, flash, report_of, version_of
from machines import free_port
from made_boards import MadeBoard, make_runtimes

from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.cli.bundles import private_key
from edgeslm.cli.flash_ssh import to_board
from edgeslm.cli.flashing import OverSsh, Wanted
from edgeslm.errors import InvalidOption
from edgeslm.flash.carried import opened
from edgeslm.flash.ssh import services
from edgeslm.flash.ssh.cargo import load


@pytest.mark.slow
def test_flashed_updated_gone_back_and_removed(board: MadeBoard, bundles: Bundles) -> None:
    first, second = bundles
    port = str(free_port())
    planned = flash(board, first, "--port", port, "--dry-run")
    assert re.search(r"^ *\d\. send ", planned.stdout, re.MULTILINE)
    assert not board.root.exists()

    report = report_of(flash(board, first, "--port", port, "--json"))
    assert report["address"] == f"http://127.0.0.1:{port}/"
    assert report["written_bytes"] > 500_000
    assert board.current == version_of(first)
    ask(port)
    assert not any((board.root / "var/lib/edgeslm/received").iterdir())

    before, told = board.snapshot(), board.calls()
    again = flash(board, first, "--port", port)
    assert again.stdout.startswith("nothing to do: ")
    assert f"it answers at http://127.0.0.1:{port}/" in again.stdout
    assert (board.snapshot(), board.calls()) == (before, told)

    updated = report_of(flash(board, second, "--json"))  # the port stays
    assert updated["written_bytes"] < 60_000  # the model is there already
    assert board.current == board.served == version_of(second)
    assert len(list((board.root / "opt/edgeslm/runtimes").iterdir())) == 2
    newer = (board.root / "opt/edgeslm/current").readlink()
    ask(port)

    back = flash(board, "--rollback")
    assert version_of(first) in back.stdout
    assert board.current == board.served == version_of(first)
    assert (board.root / "opt/edgeslm/current").readlink() != newer
    ask(port)

    status = json.loads(flash(board, "--status", "--json").stdout)["status"]
    assert (status["current"], status["previous"]) == (version_of(first), version_of(second))
    assert status["active"] and status["enabled"]

    flash(board, "--uninstall", "--yes")
    assert not board.root.exists()
    assert board.calls()[-2:] == ["disable --now edgeslm.service", "daemon-reload"]
    assert "not active" in flash(board, "--status").stdout


def test_flashed_and_asked_through_ssh(board: MadeBoard, bundles: Bundles) -> None:
    port = str(free_port())
    process = subprocess.Popen(
        command(board, bundles[0], "--port", port, "--open"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    with process:
        lines = []
        while not lines or not lines[-1].startswith("the web chat: "):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        address = lines[-1].split()[3]
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"<html" in page.read()
        ask(address.rstrip("/").rpartition(":")[2])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with pytest.raises(OSError, match="refused"):
        ask(address.rstrip("/").rpartition(":")[2])
    assert flash(board, bundles[0], "--port", port).stdout.startswith("nothing to do: ")
    flash(board, "--uninstall", "--yes")
    assert not board.root.exists()


@pytest.mark.slow
def test_a_runtime_that_does_not_start_is_not_kept(
    board: MadeBoard, bundles: Bundles, tmp_path: Path
) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    good = (board.root / "opt/edgeslm/current").readlink()
    bad = make_runtimes(tmp_path / "bad", ".7", fault="sys.exit('it is broken')")
    done = flash(board, bundles[0], "--port", port, "--runtime", bad, code=1)
    assert "the runtime does not start: it is broken" in done.stderr
    home = board.root / "opt/edgeslm"
    assert (home / "current").readlink() == good
    assert len(list((home / "runtimes").iterdir())) == 1
    assert not (home / "previous").exists()  # so it has never been the current one
    ask(port)
    switched = report_of(flash(board, bundles[1], "--port", port, "--json"))
    assert switched["written_bytes"] > 0
    later = (home / "current").readlink()
    site = home / good / "site/edgeslm"
    shutil.rmtree(site / "__pycache__")
    (site / "__main__.py").write_text("raise SystemExit('it has become old')")
    done = flash(board, bundles[0], "--port", port, code=1)
    assert "the runtime does not start there" in done.stderr
    assert "it has become old" in done.stderr
    assert (home / "current").readlink() == later
    ask(port)
    assert flash(board, bundles[1], "--port", port).returncode == 0
    assert not any((board.root / "var/lib/edgeslm/received").iterdir())


@pytest.mark.slow
def test_a_delta_of_something_damaged_is_sent_whole(
    board: MadeBoard, bundles: Bundles, changed: Path
) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    model = spoil_model(board, bundles[0])
    report = report_of(flash(board, changed, "--json"))
    assert report["notes"] == [damage(sent=0)]
    assert report["written_bytes"] > model.stat().st_size
    assert board.current == board.served == version_of(changed)
    verify_bundle(board.store / "versions" / version_of(changed))


def test_what_a_board_has_damaged_is_sent_again(board: MadeBoard, bundles: Bundles) -> None:
    (board.state / "no systemd").touch()  # so nothing has to be started
    flash(board, bundles[0])
    model = spoil_model(board, bundles[0])
    report = report_of(flash(board, bundles[1], "--json"))
    assert damage(sent=1) in report["notes"]
    assert report["written_bytes"] > model.stat().st_size
    assert board.current == version_of(bundles[1])
    versions = [board.store / "versions" / version_of(bundle) for bundle in bundles]
    for version in versions:
        verify_bundle(version)

    spoil_model(board, bundles[0])
    report = report_of(flash(board, bundles[0], "--json"))  # back to what is there already
    assert damage(sent=1) in report["notes"]
    assert board.current == version_of(bundles[0])
    for version in versions:
        verify_bundle(version)
    assert not any((board.root / "var/lib/edgeslm/received").iterdir())


def damage(*, sent: int) -> str:
    return f"Files damaged there: 1; sent again: {sent}. Its card may be wearing out."


def spoil_model(board: MadeBoard, bundle: Path) -> Path:
    """Change a byte of the model on the board, as a card does that wears out."""
    digest = verify_bundle(bundle).contents.model.sha256
    path = board.store / "versions" / version_of(bundle) / "blobs/sha256" / digest
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return path


@pytest.mark.slow
def test_a_service_that_does_not_answer_is_gone_back_from(
    board: MadeBoard, bundles: Bundles, tmp_path: Path
) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    good = (board.root / "opt/edgeslm/current").readlink()
    fault = "'serve' in sys.argv and sys.exit('no')"
    bad = make_runtimes(tmp_path / "bad", ".8", fault=fault)
    done = flash(board, bundles[1], "--port", port, "--runtime", bad, code=1)
    assert "the service does not answer" in done.stderr
    assert "what was served before is served again" in done.stderr
    assert board.current == board.served == version_of(bundles[0])
    assert (board.root / "opt/edgeslm/current").readlink() == good
    ask(port)

    unit = (board.root / "etc/systemd/system/edgeslm.service").read_text()
    with socket.create_server(("127.0.0.1", 0)) as other:  # somebody else's port
        taken = str(other.getsockname()[1])
        done = flash(board, bundles[0], "--port", taken, code=1)
    assert "what was served before is served again" in done.stderr
    assert (board.root / "etc/systemd/system/edgeslm.service").read_text() == unit
    ask(port)
    assert flash(board, bundles[0]).stdout.startswith("nothing to do")


@pytest.mark.slow
def test_interrupted_before_the_service_has_started_anew(
    board: MadeBoard, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    monkeypatch.setattr(services, "start", interrupted)
    wanted = Wanted(bundles[1], over_ssh=OverSsh(config=board.machine.config))
    with pytest.raises(KeyboardInterrupt):
        to_board(wanted, board.to)
    assert (board.current, board.served) == (version_of(bundles[1]), version_of(bundles[0]))
    assert "by an interrupted flash" in flash(board, "--status").stdout
    flash(board, bundles[1])
    assert board.served == version_of(bundles[1])
    assert flash(board, bundles[1]).stdout.startswith("nothing to do")
    with pytest.raises(KeyboardInterrupt):
        to_board(replace(wanted, bundle=bundles[0]), board.to)
    flash(board, "--rollback")
    assert board.served == version_of(bundles[1])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(None, port=9000, over_ssh=OverSsh(status=True)), "--port goes with a bundle"),
        (Wanted(None, runtime=Path("x"), over_ssh=OverSsh(rollback=True)), "--runtime goes"),
        (Wanted(None, trust=(Path("x"),), over_ssh=OverSsh(open_chat=True)), "--trust goes"),
        (Wanted(None, over_ssh=OverSsh(uninstall=True, again=True)), "--again goes"),
    ],
)
def test_nothing_that_was_typed_is_left_undone(wanted: Wanted, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        to_board(wanted, "ssh://nobody@127.0.0.1:1")


def test_two_keys_of_one_name(packed: Path, tmp_path: Path) -> None:
    keys = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        private = tmp_path / folder / "key.pem"
        made_bundles.write_pair(private, made_bundles.ec.SECP256R1())
        keys.append(private.with_suffix(".pub"))
    with opened(packed, tmp_path / "beside") as carried:
        assert len(load(carried, None, [keys[0], keys[0]]).keys) == 1
        with pytest.raises(InvalidOption, match=r"two keys with the name key\.pub"):
            load(carried, None, keys)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_what_is_gone_back_to_does_not_answer(board: MadeBoard, bundles: Bundles) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    flash(board, bundles[1])
    model = verify_bundle(bundles[0]).contents.model.sha256
    (board.store / "versions" / version_of(bundles[0]) / "blobs/sha256" / model).unlink()
    done = flash(board, "--rollback", code=1)
    assert "what was served before is served again" in done.stderr
    assert board.current == board.served == version_of(bundles[1])
    assert "by an interrupted flash" not in flash(board, "--status").stdout


@pytest.mark.slow
def test_of_a_model_that_changed_only_that_is_sent(
    board: MadeBoard, bundles: Bundles, changed: Path
) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    report = report_of(flash(board, changed, "--port", port, "--json"))
    assert report["plan"]["steps"][0]["bytes"] > 2_000_000
    assert report["written_bytes"] < 700_000
    assert board.current == version_of(changed)
    ask(port)
    assert not any((board.root / "var/lib/edgeslm/received").iterdir())


@pytest.mark.slow
def test_without_systemd(board: MadeBoard, bundles: Bundles) -> None:
    (board.state / "no systemd").touch()
    done = flash(board, bundles[0])
    assert "No systemd runs there; start it with: " in done.stdout
    assert board.calls() == []
    assert flash(board, bundles[0]).stdout.startswith("nothing to do")
    assert "no systemd there" in flash(board, "--status").stdout
    line = next(line for line in done.stdout.splitlines() if "start it with: " in line)
    words = line.partition("start it with: ")[2].split()
    assert Path(words[0]).is_file()
    flash(board, "--uninstall", "--yes")
    assert not board.root.exists()


@pytest.mark.slow
def test_models_that_are_kept_are_not_sent_again(board: MadeBoard, bundles: Bundles) -> None:
    port = str(free_port())
    flash(board, bundles[0], "--port", port)
    flash(board, "--uninstall", "--keep-models", "--yes")
    assert [path.name for path in (board.root / "var/lib/edgeslm").iterdir()] != []
    assert not (board.root / "opt/edgeslm").exists()
    report = report_of(flash(board, bundles[0], "--port", port, "--json"))
    assert report["written_bytes"] < 50_000  # the installer
    ask(port)


@pytest.mark.slow
def test_only_signed_ones_where_a_key_is_trusted(
    board: MadeBoard, bundles: Bundles, tmp_path: Path
) -> None:
    port = str(free_port())
    private = made_bundles.write_pair(tmp_path / "key.pem", made_bundles.ec.SECP256R1())
    signed = tmp_path / "signed"
    shutil.copytree(bundles[0], signed)
    sign_bundle(signed, private_key(private))
    refused = flash(board, bundles[0], "--trust", private.with_suffix(".pub"), code=2)
    assert "sign" in refused.stderr
    flash(board, bundles[0], "--port", port)  # the same, not signed
    flash(board, signed, "--port", port, "--trust", private.with_suffix(".pub"))
    assert (board.root / "etc/edgeslm/trusted_keys/key.pub").is_file()
    unit = (board.root / "etc/systemd/system/edgeslm.service").read_text()
    assert f"EDGESLM_TRUSTED_KEYS={board.root}/etc/edgeslm/trusted_keys" in unit
    done = flash(board, bundles[1], "--port", port, code=1)
    assert "sign" in done.stderr
    assert board.current == version_of(signed)
    ask(port)


@pytest.mark.slow
def test_a_whole_system(systems: dict[str, MadeBoard], bundles: Bundles) -> None:
    board, port = systems["root"], str(free_port())
    flash(board, bundles[0], "--port", port)
    ask(port)
    passwd = (board.root / "etc/passwd").read_text().splitlines()
    assert any(re.match("edgeslm:.*nologin$", line) for line in passwd)
    home = (board.root / "var/lib/edgeslm").stat()
    assert (home.st_mode & 0o7777, home.st_uid) == (0o1775, 0)
    assert (board.root / "etc/systemd/system/edgeslm.service").is_file()
    for path in [*board.store.rglob("*"), *(board.root / "opt/edgeslm").rglob("*")]:
        wanted = 0o555 if path.is_dir() or path.name == "edgeslm" else 0o444
        assert path.stat().st_mode & wanted & 0o7 == wanted & 0o7, path  # the account reads it
    assert flash(board, bundles[0], "--port", port).stdout.startswith("nothing to do")

    flash(board, "--uninstall", "--yes")
    assert "edgeslm:" not in (board.root / "etc/passwd").read_text()
    left = [path for path in board.root.rglob("*edgeslm*") if path.is_file()]
    assert left == []


@pytest.mark.slow
def test_a_user_without_rights(systems: dict[str, MadeBoard], bundles: Bundles) -> None:
    board, port = systems["fresh"], str(free_port())
    root = board.root / "home/fresh/.local/share/edgeslm"
    done = flash(board, bundles[0], "--port", port)
    assert "There is no sudo without a password" in done.stdout
    assert "loginctl enable-linger fresh" in done.stdout
    assert (root / "opt/edgeslm/current/bin/edgeslm").is_file()
    assert all(call.startswith("--user ") for call in board.calls())
    ask(port)
    assert flash(board, bundles[0], "--port", port).stdout.startswith("nothing to do")
    flash(board, "--uninstall", "--yes")
    assert not root.exists()
