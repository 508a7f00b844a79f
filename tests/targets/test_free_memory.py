"""What may be used, from recorded /proc and control groups of both versions."""

from __future__ import annotations

from pathlib import Path

from edgeslm.targets.free_memory import free_memory

MIB = 2**20
RESIDENT, FILES = 20 * 1024, 8 * 1024
"""What the recorded process has resident of its own, and of files, in KiB."""


def _tree(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    common = {
        "proc/meminfo": "MemTotal: 4000000 kB\nMemFree: 100000 kB\nMemAvailable: 2048000 kB\n",
        "proc/self/status": f"Name:\tpython3\nVmRSS:\t   {RESIDENT + FILES} kB\n"
        f"RssAnon:\t   {RESIDENT} kB\nRssFile:\t   {FILES} kB\nThreads:\t1\n",
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mountinfo,
    }
    for name, text in (common | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "38 31 0:35 {top} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    "39 31 0:36 / /sys/fs/cgroup/cpu rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
)
V2_MOUNTS = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def _v1(
    folder: str, limit: int, usage: int, pages: int, mapped: int = FILES * 1024
) -> dict[str, str]:
    place = f"sys/fs/cgroup/memory/{folder}".rstrip("/")
    return {
        f"{place}/memory.limit_in_bytes": f"{limit}\n",
        f"{place}/memory.usage_in_bytes": f"{usage}\n",
        f"{place}/memory.stat": f"cache 1\ninactive_file 7\ntotal_inactive_file {pages}\n"
        f"total_active_file {pages}\ntotal_mapped_file {mapped}\n",
    }


def _v2(folder: str, limit: str, usage: int, pages: int, high: str = "max") -> dict[str, str]:
    place = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {
        f"{place}/memory.max": f"{limit}\n",
        f"{place}/memory.high": f"{high}\n",
        f"{place}/memory.current": f"{usage}\n",
        f"{place}/memory.stat": f"anon 1\ninactive_file {pages}\nactive_file 0\n"
        f"file_mapped {FILES * 1024}\n",
    }


def test_without_control_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    found = free_memory(_tree(tmp_path, "", "", {}))

    assert found.bytes == (2048000 + RESIDENT) * 1024
    assert "machine" in found.limit


def test_a_group_of_version_1_limits(tmp_path: Path) -> None:
    files = _v1("board", 150 * MIB, 60 * MIB, 10 * MIB) | _v1("", 2**63 - 4096, 900 * MIB, 0)
    tree = _tree(tmp_path, "4:memory:/board\n1:cpu:/\n0::/\n", V1_MOUNTS.format(top="/"), files)

    found = free_memory(tree)

    assert found.bytes == (150 - 60 + 2 * 10) * MIB + RESIDENT * 1024
    assert "control group" in found.limit


def test_a_container_of_version_1_sees_its_group_as_the_top(tmp_path: Path) -> None:
    files = _v1("", 200 * MIB, 100 * MIB, 0)
    mounts = V1_MOUNTS.format(top="/docker/abc")
    tree = _tree(tmp_path, "4:memory:/docker/abc\n", mounts, files)

    assert free_memory(tree).bytes == 100 * MIB + RESIDENT * 1024


def test_a_limit_further_up_in_version_2_binds(tmp_path: Path) -> None:
    files = (
        _v2("user.slice/app.service", "max", 30 * MIB, 0)
        | _v2("user.slice", f"{512 * MIB}", 500 * MIB, 100 * MIB)
        | _v2("", "max", 900 * MIB, 0)
    )
    tree = _tree(tmp_path, "0::/user.slice/app.service\n", V2_MOUNTS, files)

    assert free_memory(tree).bytes == (512 - 500 + 100) * MIB + RESIDENT * 1024


def test_a_throttled_group_counts_from_where_it_is_throttled(tmp_path: Path) -> None:
    files = _v2("app", f"{512 * MIB}", 100 * MIB, 0, high=f"{256 * MIB}")
    tree = _tree(tmp_path, "0::/app\n", V2_MOUNTS, files)

    assert free_memory(tree).bytes == 156 * MIB + RESIDENT * 1024


def test_a_container_of_version_2_sees_its_group_as_the_top(tmp_path: Path) -> None:
    files = _v2("", f"{300 * MIB}", 50 * MIB, 0)
    tree = _tree(tmp_path, "0::/\n", V2_MOUNTS, files)

    assert free_memory(tree).bytes == 250 * MIB + RESIDENT * 1024


def test_a_group_that_is_not_shown_falls_back_on_what_is(tmp_path: Path) -> None:
    files = _v2("", f"{300 * MIB}", 50 * MIB, 0)
    tree = _tree(tmp_path, "0::/../elsewhere/x\n", V2_MOUNTS, files)

    assert free_memory(tree).bytes == 250 * MIB + RESIDENT * 1024


def test_a_group_that_has_more_than_the_machine_does_not_count(tmp_path: Path) -> None:
    files = _v2("app", f"{8000 * MIB}", 0, 0)
    tree = _tree(tmp_path, "0::/app\n", V2_MOUNTS, files)

    assert free_memory(tree).bytes == (2048000 + RESIDENT) * 1024


def test_a_group_beyond_its_limit_leaves_what_the_process_has(tmp_path: Path) -> None:
    files = _v2("app", f"{10 * MIB}", 50 * MIB, 0)
    tree = _tree(tmp_path, "0::/app\n", V2_MOUNTS, files)

    assert free_memory(tree).bytes == RESIDENT * 1024


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    mounts = V2_MOUNTS.replace("/sys/fs/cgroup", "/sys/fs/c\\040g")
    files = {
        "sys/fs/c g/memory.max": f"{30 * MIB}",
        "sys/fs/c g/memory.current": "0",
        "sys/fs/c g/memory.stat": f"file_mapped {FILES * 1024}\n",
    }

    assert free_memory(_tree(tmp_path, "0::/\n", mounts, files)).bytes == (
        30 * MIB + RESIDENT * 1024
    )


def test_this_machine_has_some() -> None:
    assert free_memory().bytes > MIB


def test_pages_of_files_that_another_group_has_paid_for_are_left_to_it(tmp_path: Path) -> None:
    files = _v1("board", 150 * MIB, 60 * MIB, 10 * MIB, mapped=3 * MIB)
    tree = _tree(tmp_path, "4:memory:/board\n", V1_MOUNTS.format(top="/"), files)

    assert free_memory(tree).bytes == (150 - 60 + 2 * 10 + 8 - 3) * MIB + RESIDENT * 1024
