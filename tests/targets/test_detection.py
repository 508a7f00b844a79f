"""Recorded machines are recognised, and the reasons say by what."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeslm.targets import detection
from edgeslm.targets.detection import detect
from edgeslm.targets.loading import list_targets

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    ("tree", "target", "evidence"),
    [
        ("rpi5-8gb", "rpi5-8gb", "raspberrypi,5-model-b"),
        ("rpi4-2gb", "rpi4-2gb", "raspberrypi,4-model-b"),
        ("rpi-zero-2w", "rpi-zero-2w", "raspberrypi,model-zero-2-w"),
        ("orange-pi-5", "orange-pi-5-16gb", "xunlong,orangepi-5"),
        ("jetson-orin-nano", "jetson-orin-nano", "nvidia,p3768-0000+p3767-0005-super"),
        ("n100", "n100", "Intel(R) N100"),
    ],
)
def test_a_recorded_board_is_recognised(tree: str, target: str, evidence: str) -> None:
    found = detect(FIXTURES / tree)

    assert found.target == target
    assert found.exact
    assert evidence in found.reasons[0]


def test_the_host_is_described() -> None:
    host = detect(FIXTURES / "orange-pi-5").host

    assert host.board == "Orange Pi 5"
    assert host.cpu == "Cortex-A55 + Cortex-A76"
    assert host.cores == 8
    assert "asimddp" in host.features
    assert host.memory_bytes == 16267004 * 1024


def test_a_memory_size_that_is_not_sold_gives_the_closest_and_says_so() -> None:
    found = detect(FIXTURES / "rpi4-1gb")

    assert found.target == "rpi4-2gb"
    assert not found.exact
    assert "0.9 GiB" in found.reasons[1]


def test_a_board_whose_memory_is_unreadable_is_not_exact(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "rpi5-8gb", tmp_path / "tree")
    (tmp_path / "tree/proc/meminfo").unlink()

    found = detect(tmp_path / "tree")

    assert found.target == "rpi5-8gb"
    assert not found.exact
    assert "memory size is unknown" in found.reasons[1]


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("Orange Pi 5", "orange-pi-5"),
        ("Orange Pi 5 Plus", None),
        ("Orange Pi 5 Ultra", None),
        ("Radxa ROCK 5B", "rock-5b"),
        ("Radxa ROCK 5B+", None),
        ("Raspberry Pi 5 Model B Rev 1.1", "rpi5-8gb"),
    ],
)
def test_a_model_s_name_counts_as_a_whole(tmp_path: Path, model: str, target: str | None) -> None:
    for name, content in (("device-tree/model", model), ("meminfo", "MemTotal: 8000000 kB")):
        (tmp_path / "proc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / name).write_text(content)

    found = detect(tmp_path)

    assert (found.target, found.exact) == (target, target is not None)


def test_a_board_of_one_size_with_other_memory_is_not_exact(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "n100", tmp_path / "tree")
    (tmp_path / "tree/proc/meminfo").write_text("MemTotal: 7900000 kB\n")

    found = detect(tmp_path / "tree")

    assert found.target == "n100"
    assert not found.exact
    assert found.reasons[1] == "7.5 GiB of memory visible, not the memory of n100"


def test_an_unknown_x86_machine_falls_back_and_says_why() -> None:
    found = detect(FIXTURES / "unknown-x86")

    assert found.target == "laptop-x86"
    assert not found.exact
    assert "Some Vendor Some Laptop" in found.reasons[0]
    assert "i5-1335U" in found.reasons[0]
    assert "no better match" in found.reasons[1]


def test_an_unknown_arm_board_is_no_target() -> None:
    found = detect(FIXTURES / "unknown-arm")

    assert found.target is None
    assert not found.exact
    assert "Some Board V2" in found.reasons[0]


def test_a_machine_that_shows_nothing_is_no_target(tmp_path: Path) -> None:
    found = detect(tmp_path)

    assert found.target is None
    assert found.reasons == ("the machine does not name itself",)
    assert found.host == detection.Host(None, None, None, (), None)


@pytest.mark.parametrize(
    ("chip", "target"), [("Apple M1", "apple-m1"), ("Apple M4", "apple-m4"), ("Apple M4 Max", None)]
)
def test_a_mac_is_known_by_its_chip(
    monkeypatch: pytest.MonkeyPatch, chip: str, target: str | None
) -> None:
    answers = {"machdep.cpu.brand_string": chip, "hw.model": "Mac16,10"}
    monkeypatch.setattr(detection.sys, "platform", "darwin")
    monkeypatch.setattr(detection, "_sysctl", answers.get)
    monkeypatch.setattr(detection, "_processors", lambda root: [])

    assert detect(Path("/")).target == target


def test_only_features_that_all_cores_have_are_listed(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.parent.mkdir()
    cpuinfo.write_text("processor : 0\nFeatures : fp asimddp\n\nprocessor : 1\nFeatures : fp\n")

    assert detect(tmp_path).host.features == ("fp",)


def test_no_two_boards_claim_the_same_name() -> None:
    claims: dict[str, str] = {}
    for target in list_targets():
        for name in (*target.match.device_tree, *target.match.cpu):
            assert claims.setdefault(name, target.board) == target.board
