"""What boards answer: as they should, oddly, with bad intent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from made_answers import LOOKED, MACHINE, answer, board, printed

from edgeslm.errors import EdgeslmError, HostFailure, Unsupported
from edgeslm.flash.ssh import machine
from edgeslm.flash.ssh.board import Before, Rights, read_answer
from edgeslm.flash.ssh.destination import parse_destination

HERE = parse_destination("ssh://pi@board")
ONE, OTHER = "1" * 32, "2" * 32


def test_a_board() -> None:
    state = json.dumps({"schema": "edgeslm.store/1", "current": ONE, "previous": OTHER})
    found = board(
        versions=[ONE, OTHER],
        state=state,
        stored={"a" * 64: 5, "no hash": 6},
        unit="[Service]\nExecStart=/opt/x serve /y --host 0.0.0.0 --port 9090 --slots 2\n",
        served=json.dumps({ONE: "c" * 16, "x": "y"}),
    )
    assert found.rights is Rights.SUDO
    assert found.pythons == {(3, 11): "/usr/bin/python3"}
    assert (found.current, found.previous) == (ONE, OTHER)
    assert found.stored == {"a" * 64: 5}
    assert found.served == {ONE: "c" * 16}
    assert found.port == 9090
    assert found.unit_file == "/etc/systemd/system/edgeslm.service"
    assert found.account == "edgeslm"


def test_a_version_that_is_not_there_is_not_current() -> None:
    assert board(state=json.dumps({"current": ONE, "previous": 7}), versions=[]).current is None
    assert board(state="{", versions=[ONE]).current is None
    assert board(state="[]", versions=[ONE]).current is None


def test_what_a_shell_says_before_is_passed_over() -> None:
    text = "Welcome!\npython of the year\n" + answer()
    assert read_answer(text, HERE).looked.architecture == "aarch64"


def test_without_rights_all_is_the_users_own() -> None:
    found = board("none", root="/home/pi/.local/share/edgeslm")
    assert found.alone
    assert found.account is None
    assert found.unit_file == "/home/pi/.local/share/edgeslm/etc/systemd/user/edgeslm.service"


def test_below_a_prefix_it_runs_as_who_logged_in() -> None:
    found = board(to="ssh://pi@board/srv/x", root="/srv/x")
    assert found.account == "pi"
    assert found.lock == "/srv/x/var/lib/edgeslm/flash.lock"


def test_root_does_not_serve_below_a_prefix() -> None:
    found = board("root", to="ssh://root@board/srv/x", root="/srv/x", user="root")
    assert found.account == "edgeslm"


def test_a_port_that_is_none() -> None:
    assert board(unit="ExecStart=/x serve /y --port 99999").port is None


def test_what_was_served_before() -> None:
    assert not board().unfinished
    told = {"version": ONE, "runtime": "c" * 16, "unit": "[Unit]\n"}
    assert board(before=json.dumps(told)).before == Before(ONE, "c" * 16, "[Unit]\n")
    assert board(before='{"version": ').before == Before()
    assert board(before="[7]").before == Before()
    assert board(going_back_to=ONE).unfinished


def test_this_machine_says_all_of_it() -> None:
    assert set(machine.look()) == set(MACHINE)


def test_no_python() -> None:
    with pytest.raises(Unsupported, match="has no python3"):
        read_answer("rights none\nmachine Linux armv7l\n", HERE)


def test_no_linux() -> None:
    with pytest.raises(Unsupported, match="runs Darwin"):
        read_answer("rights none\nmachine Darwin arm64\n", HERE)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"root": "/home/p i"},
            {"root": "/x/$(reboot)"},
            {"root": "relative"},
            {"root": "/a/../b"},
        ),
        *({"user": "pi; reboot"}, {"user": ""}, {"user": "a%h"}, {"architecture": 7}),
        *({"versions": ["\x1b[2J"]}, {"runtimes": ["../x"]}),
        *({"stored": [1]}, {"stored": {"a" * 64: "x"}}, {"keys": 1}, {"versions": "x"}),
        {"memory_bytes": None},
    ],
)
def test_odd_answers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(HostFailure):
        board(**changes)


@pytest.mark.parametrize("missing", sorted(LOOKED))
def test_answers_that_lack_something_are_refused(missing: str) -> None:
    told = {key: value for key, value in LOOKED.items() if key != missing}
    with pytest.raises(HostFailure, match=missing):
        read_answer(printed(told), HERE)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[" * 100_000, "rights god\n{}", "python 3.11 /bin/x\nrights root\n{}\nnull\n"],
)
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(EdgeslmError):
        read_answer(text, HERE)


def test_a_python_with_an_odd_path_is_not_used() -> None:
    with pytest.raises(Unsupported, match="has no python3"):
        read_answer(answer(python="3.11 /tmp/x;reboot"), HERE)
