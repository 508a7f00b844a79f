"""From what a board is and has to what is left to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_answers import board

from edgeslm.bundle.runtimes import Runtime, RuntimeList, WheelFile, runtime_id
from edgeslm.errors import NotFound, OutputFailure, Unsupported
from edgeslm.flash.service import Service, unit
from edgeslm.flash.ssh.cargo import Cargo, Item
from edgeslm.flash.ssh.destination import parse_destination
from edgeslm.flash.ssh.planning import Work, plan_ssh, settled

HERE = parse_destination("ssh://pi@board")
MODEL = Item("a" * 64, 900_000_000, Path("model"))
INDEX = Item("b" * 64, 300, Path("index.json"))
WHEEL = Item("c" * 64, 20_000_000, Path("wheel"))
LISTED = Item("d" * 64, 500, Path("runtime.json"))
RUNTIME = Runtime(
    *(runtime_id([WHEEL.sha256], "3.11"), "aarch64", "armv8.2-a+dotprod", ("asimddp",), "3.11"),
    *("2.34", (), ("x-1-py3-none-any.whl",)),
)
RUNTIMES = RuntimeList(
    "1", "2", (WheelFile("x-1-py3-none-any.whl", WHEEL.sha256, WHEEL.bytes),), (RUNTIME,)
)
CARGO = Cargo(
    *("packed", Path("packed"), "e" * 64, (MODEL, WHEEL, LISTED), {"index.json": INDEX}, RUNTIMES),
    *({each.sha256: each for each in (MODEL, WHEEL, LISTED)}, LISTED.sha256, {}),
)
VERSION = "e" * 32
UNIT = unit(settled(Service(), board(), trusts=False))
DONE = {
    "versions": [VERSION],
    "state": f'{{"current": "{VERSION}"}}',
    "stored": {each.sha256: each.bytes for each in (MODEL, WHEEL, LISTED)},
    "runtimes": [RUNTIME.id],
    "runtime": RUNTIME.id,
    "unit": UNIT,
    "enabled": True,
    "active": True,
    "account": True,
}


def work(rights: str = "sudo", cargo: Cargo = CARGO, **changes: object) -> Work:
    return plan_ssh(HERE, cargo, board(rights, **changes), Service())


def test_a_new_board() -> None:
    found = work()
    assert [item.bytes for item in found.send] == [MODEL.bytes, WHEEL.bytes, LISTED.bytes, 300]
    assert found.plan.bytes == sum(item.bytes for item in found.send)
    assert found.account and found.receive and found.activate and found.start and found.tidy
    assert found.install is not None
    assert (found.install.runtime, found.install.python) == (RUNTIME, "/usr/bin/python3")
    assert found.unit is not None and "User=edgeslm" in found.unit
    assert [step.what.split()[0] for step in found.plan.steps] == (
        ["make", "send", "unpack", "verify", "check", "write", "enable"]
    )


def test_a_board_that_has_it_all() -> None:
    assert work(**DONE).nothing


def test_what_it_has_is_not_sent() -> None:
    found = work(stored={MODEL.sha256: MODEL.bytes}, received={WHEEL.sha256: WHEEL.bytes})
    assert found.send == (LISTED, INDEX)
    wrong = work(stored={MODEL.sha256: 7})
    assert MODEL in wrong.send


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"active": False}, ["enable"]),
        ({"enabled": False}, ["enable"]),
        ({"unit": "else"}, ["write", "enable"]),
        ({"state": None}, ["check", "enable"]),
        ({"runtime": None}, ["unpack", "enable"]),
        ({"left_over": True}, ["remove"]),
        ({"before": "{}"}, ["enable"]),
        ({"before": "{}", "systemd": False}, ["remove"]),
        ({"going_back_to": VERSION}, ["enable"]),
        ({"systemd": False, "unit": None, "enabled": False, "active": False}, []),
    ],
)
def test_what_is_missing_is_done(changes: dict[str, object], left: list[str]) -> None:
    found = work(**DONE | changes)
    assert [step.what.split()[0] for step in found.plan.steps] == left
    assert found.send == ()


def test_a_signature_that_it_lacks() -> None:
    signed = replace(CARGO, files={**CARGO.files, "model.sig": Item("f" * 64, 90, Path("sig"))})
    found = work(cargo=signed, **DONE)
    assert found.receive and not found.activate
    assert [item.sha256[0] for item in found.send] == ["b", "f"]
    assert work(cargo=signed, **DONE | {"signatures": {VERSION: "f" * 64}}).nothing


def test_another_signature_is_of_use_only_where_a_key_is_known() -> None:
    signed = replace(CARGO, files={**CARGO.files, "model.sig": Item("f" * 64, 90, Path("sig"))})
    other = DONE | {"signatures": {VERSION: "e" * 64}}
    assert work(cargo=signed, **other).nothing
    assert work(cargo=replace(signed, keys={"a.pub": "a key"}), **other).receive


def test_a_runtime_that_is_gone_is_sent_from_the_bundle_in_the_store() -> None:
    found = work(**DONE | {"runtimes": [], "runtime": None})
    assert found.install is not None
    assert found.send == ()  # its wheels are in the version that is there


def test_the_newest_python_that_there_is_a_runtime_for() -> None:
    found = plan_ssh(
        HERE,
        CARGO,
        replace(board(), pythons={(3, 9): "/a", (3, 11): "/b", (3, 13): "/c"}),
        Service(),
    )
    assert found.install is not None and found.install.python == "/b"


def test_a_processor_that_lacks_something() -> None:
    with pytest.raises(Unsupported, match="no asimddp"):
        work(features=["fp", "asimd"])


def test_another_architecture() -> None:
    with pytest.raises(Unsupported, match="no runtime for riscv64"):
        work(architecture="riscv64")


def test_an_old_c_library() -> None:
    with pytest.raises(Unsupported, match=r"glibc 2\.34, this system has 2\.31"):
        work(glibc="2.31")


def test_an_old_python() -> None:
    with pytest.raises(Unsupported, match=r"newest Python is 3\.9"):
        plan_ssh(HERE, CARGO, replace(board(), pythons={(3, 9): "/a"}), Service())


def test_nothing_that_could_run_it() -> None:
    bare = replace(CARGO, runtimes=None, runtime_list=None)
    with pytest.raises(NotFound, match="brings no runtime"):
        work(cargo=bare)
    assert work(cargo=bare, runtimes=["1" * 16], runtime="1" * 16).install is None


def test_the_service_makes_room_for_the_check_where_both_do_not_fit() -> None:
    old = {"stored": {"1" * 64: 1_000_000_000}}
    assert not work(active=True, **old).pause
    small = work(active=True, available_bytes=2_100_000_000, **old)
    assert small.pause
    assert any("stopped meanwhile" in step.what for step in small.plan.steps)
    assert work(active=True, available_bytes=None).pause
    assert not work(active=False, available_bytes=100_000_000, **old).pause


def test_a_folder_that_the_account_cannot_enter() -> None:
    below = {"root": "/root/x", "user": "root", "closed": "/root"}
    there = parse_destination("ssh://root@board/root/x")
    with pytest.raises(Unsupported, match="cannot enter /root"):
        plan_ssh(there, CARGO, board("root", there.named, **below), Service())
    at_home = below | {"user": "pi"}  # with sudo, and the service is pi's
    assert plan_ssh(there, CARGO, board("sudo", there.named, **at_home), Service()).start


def test_no_room() -> None:
    with pytest.raises(OutputFailure, match=r"no room: 1\.00 GB free"):
        work(free_bytes=1_000_000_000)
    work(free_bytes=1_040_000_000)  # what arrives is not copied
    work(**DONE | {"free_bytes": 0})


def test_keys_that_are_there_go_on_being_trusted() -> None:
    found = work(keys={"a.pub": "0" * 64})
    assert found.unit is not None
    assert "EDGESLM_TRUSTED_KEYS=/etc/edgeslm/trusted_keys" in found.unit
    assert "EDGESLM_TRUSTED_KEYS" not in (work().unit or "")


def test_a_key_is_sent_once() -> None:
    named = replace(CARGO, keys={"a.pub": "text"})
    assert work(cargo=named).keys == {"a.pub": "text"}
    digest = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert work(cargo=named, keys={"a.pub": digest}).keys == {}


def test_without_rights() -> None:
    root = "/home/pi/.local/share/edgeslm"
    found = work("none", root=root)
    assert not found.account
    assert found.unit is not None
    assert f"ExecStart={root}/opt/edgeslm/current/bin/edgeslm serve" in found.unit
    assert "WantedBy=default.target" in found.unit
    assert "User=" not in found.unit
    assert root in found.plan.notes[0]


def test_without_systemd_it_says_how_to_start() -> None:
    found = work("none", root="/home/pi/x", systemd=False)
    assert found.unit is None and not found.start
    assert "start it with: /home/pi/x/opt/edgeslm/current/bin/edgeslm serve" in found.plan.notes[-1]
