from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from made_wheels import make_wheel

import edgeslm
from edgeslm.bundle.runtimes import RuntimeList, WheelFile
from edgeslm.errors import Failure, InvalidOption, NotFound, Unsupported
from edgeslm.files import sha256
from edgeslm.flash.wheels import building, collecting
from edgeslm.flash.wheels.building import run_pip, toolchain_text
from edgeslm.flash.wheels.checking import Needs
from edgeslm.flash.wheels.instruction_sets import instruction_set

ROOT = Path(edgeslm.__file__).parents[1]


def test_the_version_is_the_one_that_is_pinned() -> None:
    assert f'"llama-cpp-python=={building.VERSION}"' in (ROOT / "pyproject.toml").read_text()


def test_extras_of_a_device_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in text for extra in collecting.EXTRAS)


def test_tags_go_from_the_newest_system_down() -> None:
    tags = collecting.platforms("aarch64", "3.11")

    assert tags[0] == "manylinux_2_36_aarch64"
    assert tags[-3:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64"]


def test_only_pythons_of_known_systems() -> None:
    collecting.check_pythons(["3.11", "3.13"])
    for wrong in ("3.10", "3.99", "three", ""):
        with pytest.raises(InvalidOption, match="not a Python"):
            collecting.check_pythons([wrong])


def test_what_is_too_new_for_the_board_is_told() -> None:
    wanted = instruction_set("armv8-a")
    collecting._check_system(Needs("2.36", "3.4.30", (), True), wanted, "3.11")
    with pytest.raises(Unsupported, match=r"glibc 2\.38; Debian 12, with Python 3\.11, has 2\.36"):
        collecting._check_system(Needs("2.38", "3.4.30", (), True), wanted, "3.11")
    with pytest.raises(Unsupported, match=r"GLIBCXX 3\.4\.32"):
        collecting._check_system(Needs("2.36", "3.4.32", (), True), wanted, "3.11")
    collecting._check_system(Needs("2.38", "3.4.32", (), True), wanted, "3.13")


def test_our_own_wheel_is_always_the_same(tmp_path: Path) -> None:
    first = collecting.own_wheel(tmp_path / "1")
    assert sha256(first) == sha256(collecting.own_wheel(tmp_path / "2"))
    with zipfile.ZipFile(first) as archive:
        assert "edgeslm/flash/wheels/without-common.cmake" in archive.namelist()


def test_without_its_source_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgeslm, "__file__", str(tmp_path / "edgeslm" / "__init__.py"))
    with pytest.raises(NotFound, match="without its source") as told:
        collecting.own_wheel(tmp_path)
    assert "--edgeslm FILE.whl" in (told.value.hint or "")


def test_an_old_list_takes_its_wheels_along(tmp_path: Path) -> None:
    folder, source = tmp_path / "runtime", tmp_path / "source"
    folder.mkdir()
    source.mkdir()
    (folder / "notes.txt").write_text("mine")
    for number in (1, 2):
        path = make_wheel(source, f"a-{number}-py3-none-any.whl", {})
        file = WheelFile(path.name, sha256(path), path.stat().st_size)
        collecting._write(folder, {path.name: path}, RuntimeList("1", "1", (file,), ()))
    there = {path.name for path in folder.iterdir()}
    assert there == {"a-2-py3-none-any.whl", "runtime.json", "install.pyz", "notes.txt"}


def test_pip_is_quoted_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no wheels: .*ERROR.*nowhere"):
        run_pip(["download", "--no-index", str(tmp_path / "nowhere.whl")], "no wheels")


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotFound) as told:
        building.find_tools("aarch64")
    assert "cmake ninja-build" in (told.value.hint or "")


def test_a_toolchain_names_machine_and_compiler() -> None:
    tools = building.Tools("/bin/cc", "/bin/c++", "/bin/strip", None, None, "gcc 12")
    text = toolchain_text("aarch64", tools)
    assert "set(CMAKE_SYSTEM_PROCESSOR aarch64)" in text
    assert 'set(CMAKE_CXX_COMPILER "/bin/c++")' in text


def test_what_is_kept_depends_on_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = building.Tools("/bin/cc", "/bin/c++", "/bin/strip", None, None, "gcc 12")
    old, new = instruction_set("armv8-a"), instruction_set("armv8.2-a+dotprod")
    keys = {building._key(each, tools) for each in (old, new)}
    monkeypatch.setattr(building, "VERSION", "0.3.37")
    assert len(keys | {building._key(old, tools)}) == 3
