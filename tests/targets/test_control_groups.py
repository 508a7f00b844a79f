"""The groups that limit a process are found from its own upwards, in both versions."""

from __future__ import annotations

from pathlib import Path

import boards
import pytest

from edgeslm.targets.control_groups import Group, control_groups

TOP = "sys/fs/cgroup"
V2 = f"30 23 0:26 / /{TOP} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    f"31 23 0:28 / /{TOP} ro - tmpfs tmpfs ro,mode=755\n"
    f"38 31 0:35 / /{TOP}/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    f"39 31 0:36 / /{TOP}/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    f"40 31 0:38 / /{TOP}/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def _tree(root: Path, cgroup: str, mountinfo: str, *folders: str) -> Path:
    files = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
    boards.lay_out(files, root)
    for folder in folders:
        (root / TOP / folder).mkdir(parents=True)
    return root


def _found(controller: str, root: Path) -> list[tuple[str, int]]:
    return [
        (group.folder.relative_to(root / TOP).as_posix(), group.version)
        for group in control_groups(controller, root)
    ]


def test_a_service_and_the_slices_above_it(tmp_path: Path) -> None:
    root = _tree(tmp_path, "0::/system.slice/edgeslm.service\n", V2, "system.slice/edgeslm.service")
    above = [("system.slice/edgeslm.service", 2), ("system.slice", 2), (".", 2)]
    assert _found("cpu", root) == _found("memory", root) == above


@pytest.mark.parametrize(
    ("controller", "groups"),
    [
        ("memory", [("memory/board", 1), ("memory", 1), ("unified", 2)]),
        ("cpu", [("cpu,cpuacct/slow", 1), ("cpu,cpuacct", 1), ("unified", 2)]),
        ("cpuset", [("unified", 2)]),
    ],
)
def test_each_controller_has_a_tree_of_its_own_in_version_1(
    controller: str, groups: list[tuple[str, int]], tmp_path: Path
) -> None:
    cgroup = "4:memory:/board\n3:cpu,cpuacct:/slow\n1:name=systemd:/x\n0::/\n"
    folders = ("memory/board", "cpu,cpuacct/slow", "unified")
    assert _found(controller, _tree(tmp_path, cgroup, V1, *folders)) == groups


@pytest.mark.parametrize("said", ["0::/../other/app\n", "0::/gone/app\n", "0::/\n"])
def test_what_is_not_shown_falls_back_on_what_is(said: str, tmp_path: Path) -> None:
    (tmp_path / "sys/fs/other/app").mkdir(parents=True)
    assert _found("cpu", _tree(tmp_path, said, V2, "app")) == [(".", 2)]


def test_a_mount_that_shows_a_part_begins_there(tmp_path: Path) -> None:
    mounts = V2.replace(" / /", " /docker/abc /", 1)
    root = _tree(tmp_path, "0::/docker/abc/inner\n", mounts, "inner")
    assert _found("cpu", root) == [("inner", 2), (".", 2)]


def test_where_proc_says_nothing_the_usual_place_is_looked_at(tmp_path: Path) -> None:
    assert control_groups("cpu", tmp_path) == ()
    folder = tmp_path / TOP / "cpu"
    folder.mkdir(parents=True)
    assert control_groups("cpu", tmp_path) == (Group(tmp_path / TOP, 2), Group(folder, 1))
