"""Where a device's runtime comes from, and whether it suits the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_images import make_runtime
from made_wheels import make_runtimes, make_several

from edgeslm.bundle.planning import Parts
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.errors import EdgeslmError, InvalidBundle, InvalidOption, NotFound, Unsupported
from edgeslm.flash.runtimes import Brought, find_runtimes
from edgeslm.flash.tree import Link
from edgeslm.flash.wheels.tags import Device

BOOKWORM = Device("aarch64", (3, 11), (2, 36), frozenset())


def test_that_in_the_bundle(tmp_path: Path, tiny_model: Path) -> None:
    wheels = make_several(tmp_path / "wheels", ("3.11", "3.13"))
    parts = Parts(
        model=tiny_model,
        wheels=sorted(wheels.glob("*.whl")),
        runtimes=(wheels / "runtime.json").read_bytes(),
    )
    write_bundle(tmp_path / "bundle", parts)
    brought = find_runtimes(tmp_path / "bundle", None)
    runtime = brought.choose(BOOKWORM)
    tree = brought.current_tree(runtime, tmp_path / "scratch")

    found = {entry.path: entry for entry in tree.entries}
    place = f"opt/edgeslm/runtimes/{runtime.id}"
    assert found["opt/edgeslm/current"].content == Link(f"runtimes/{runtime.id}")
    assert f"{place}/site/edgeslm/__main__.py" in found
    assert found[f"{place}/bin/edgeslm"].mode == 0o755
    assert b"/usr/bin/python3.11" in found[f"{place}/bin/edgeslm"].content.read_bytes()  # type: ignore[union-attr]
    assert tree.bytes > 0
    # what was unpacked once is taken as it is, what it was compiled to as well
    again = find_runtimes(tmp_path / "bundle", tmp_path / "scratch" / place)
    cache = tmp_path / "scratch" / place / "site/edgeslm/__pycache__/x.cpython-311.pyc"
    cache.parent.mkdir(exist_ok=True)
    cache.write_bytes(b"compiled")
    paths = {entry.path for entry in again.current_tree(again.choose(BOOKWORM), tmp_path).entries}
    assert set(found) | {f"{place}/site/edgeslm/__pycache__/{cache.name}"} <= paths
    with pytest.raises(NotFound, match="brings no runtime"):
        write_bundle(tmp_path / "without", Parts(model=tiny_model))
        find_runtimes(tmp_path / "without", None)


def test_a_list_of_wheels_that_are_not_there_is_damage(tmp_path: Path, tiny_model: Path) -> None:
    wheels = make_several(tmp_path / "wheels", ("3.13",))
    listed = (wheels / "runtime.json").read_bytes()
    write_bundle(tmp_path / "bundle", Parts(model=tiny_model, runtimes=listed))
    with pytest.raises(InvalidBundle, match="is not in the bundle"):
        verify_bundle(tmp_path / "bundle")


def test_an_unknown_processor_is_asked_for_least(tmp_path: Path) -> None:
    sets = {"armv8-a": (), "armv8.2-a+dotprod": ("asimddp",)}
    make_runtimes(tmp_path, "3.11", sets=sets)
    brought = find_runtimes(tmp_path, tmp_path)

    assert brought.choose(Device("aarch64", (3, 11))).march == "armv8-a"
    able = Device("aarch64", (3, 11), None, frozenset({"asimddp"}))
    assert brought.choose(able).march == "armv8.2-a+dotprod"


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (Device("aarch64", (3, 13), (2, 41)), "no runtime for aarch64, Python 3.13"),
        (Device("x86_64", (3, 11), (2, 41)), "no runtime for x86_64"),
        (Device("aarch64", (3, 11), (2, 31)), "needs glibc 2.34, this system has 2.31"),
    ],
)
@pytest.mark.parametrize("unpacked", [True, False])
def test_one_for_another_system_is_refused(
    tmp_path: Path, device: Device, why: str, unpacked: bool
) -> None:
    if unpacked:
        brought = find_runtimes(tmp_path, make_runtime(tmp_path / "runtime", "3.11"))
    else:
        make_runtimes(tmp_path, "3.11")
        brought = find_runtimes(tmp_path, tmp_path)

    with pytest.raises(Unsupported, match=why):
        brought.choose(device)


@pytest.mark.parametrize(
    "changed", [{"id": "../../x"}, {"id": None}, {"glibc": "new"}, {"python": 3.11}]
)
def test_what_an_unpacked_one_says_of_itself(tmp_path: Path, changed: dict[str, object]) -> None:
    folder = make_runtime(tmp_path / "runtime", **changed)

    with pytest.raises(EdgeslmError):
        find_runtimes(tmp_path, folder)


def test_what_is_no_runtime(tmp_path: Path) -> None:
    folder = make_runtime(tmp_path / "runtime")
    (folder / "bin/edgeslm").unlink()
    with pytest.raises(InvalidOption, match="bin/edgeslm"):
        find_runtimes(tmp_path, folder)
    (folder / "runtime.json").unlink()
    with pytest.raises(InvalidOption, match=r"runtime\.json is missing"):
        find_runtimes(tmp_path, folder)
    (folder / "runtime.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(EdgeslmError):
        find_runtimes(tmp_path, folder)


def test_how_large_it_is_at_most(brought: Brought, tmp_path: Path) -> None:
    trees = [brought.current_tree(each, tmp_path / each.id) for each in brought.listed.runtimes]
    assert brought.most_bytes > 5000
    for tree in trees:
        files = [entry for entry in tree.files if "/site/" in entry.path]
        plain = sum(entry.size for entry in files if "__pycache__" not in entry.path)
        assert plain == pytest.approx(brought.most_bytes, rel=0.02)
