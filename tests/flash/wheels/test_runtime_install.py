from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_wheels import make_runtimes

from edgeslm.bundle.runtimes import Runtime, RuntimeList
from edgeslm.errors import InvalidBundle, NotFound, OutputFailure, Unhealthy, Unsupported
from edgeslm.flash.wheels import install as installing
from edgeslm.flash.wheels.install import Installed, choose, install, launcher_text
from edgeslm.flash.wheels.installer import installer
from edgeslm.flash.wheels.tags import Device, this_device

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
SETS = {"armv8-a": (), "armv8.2-a+dotprod": ("atomics", "asimddp")}
FAR = Device("aarch64", (3, 13), (2, 41), frozenset({"asimd"}))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def put(runtimes: RuntimeList, wheels: Path, root: Path, number: int = 0) -> Installed:
    return install(runtimes, runtimes.runtimes[number], wheels, root, durable=False)


def links(root: Path) -> dict[str, str]:
    home = root / "opt" / "edgeslm"
    names = ("current", "previous")
    return {name: (home / name).readlink().name for name in names if (home / name).is_symlink()}


def kept(root: Path) -> set[str]:
    return {path.name for path in (root / "opt" / "edgeslm" / "runtimes").iterdir()}


def test_a_runtime_is_unpacked_and_current(wheels: Path, root: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    done = put(runtimes, wheels, root)

    assert done.new
    assert links(root) == {"current": done.id}
    assert kept(root) == {done.id}
    site = root / "opt" / "edgeslm" / "current" / "site"
    assert (site / "llama" / "lib" / "libllama.so").read_bytes() == b"armv8-a"
    launcher = root / "opt" / "edgeslm" / "current" / "bin" / "edgeslm"
    assert launcher.read_text() == launcher_text("/usr/bin/python3.13")
    assert os.access(launcher, os.X_OK)
    said = json.loads((done.path / "runtime.json").read_text())
    assert said["march"] == "armv8-a"


def test_again_changes_nothing(wheels: Path, root: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    first = put(runtimes, wheels, root)
    before = first.path.stat()
    again = put(runtimes, wheels, root)

    assert not again.new
    assert again.removed == ()
    assert first.path.stat() == before
    assert links(root) == {"current": first.id}


def test_the_one_before_is_kept_and_no_other(tmp_path: Path, root: Path) -> None:
    ids = []
    for number in range(3):
        folder = tmp_path / f"wheels{number}"
        folder.mkdir()
        runtimes = make_runtimes(folder, "3.13", program=f"print({number})\n".encode())
        done = put(runtimes, folder, root)
        ids.append(done.id)
    assert done.removed == (ids[0],)
    assert links(root) == {"current": ids[2], "previous": ids[1]}
    assert kept(root) == {ids[1], ids[2]}

    back = install(*_again(tmp_path / "wheels1"), root, durable=False)
    assert not back.new
    assert links(root) == {"current": ids[1], "previous": ids[2]}


def _again(folder: Path) -> tuple[RuntimeList, Runtime, Path]:
    from edgeslm.bundle.runtimes import read_runtimes

    runtimes = read_runtimes((folder / "runtime.json").read_bytes(), "x")
    return runtimes, runtimes.runtimes[0], folder


def test_what_was_interrupted_is_never_current(
    wheels: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    partial = root / "opt" / "edgeslm" / "runtimes" / f"{runtimes.runtimes[0].id}.partial"
    partial.mkdir(parents=True)  # a power cut left it
    (partial / "half").write_text("half")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(installing, "_write_launcher", interrupted)
        put(runtimes, wheels, root)
    assert links(root) == {}
    assert kept(root) == set()
    done = put(runtimes, wheels, root)
    assert kept(root) == {done.id}
    assert not (done.path / "half").exists()


def test_what_was_half_removed_is_never_current(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for number in range(3):
        folder = tmp_path / f"wheels{number}"
        folder.mkdir()
        made.append((make_runtimes(folder, "3.13", program=f"print({number})\n".encode()), folder))
    first, second, third = ((runtimes, folder, root) for runtimes, folder in made)
    done = put(*first)
    put(*second)

    def interrupted(path: Path, **_: object) -> None:
        if path.exists():
            (path / "site" / "fast.py").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(installing.shutil, "rmtree", interrupted)
        put(*third)
    again = put(*first)
    assert again.new
    assert links(root)["current"] == done.id
    assert (done.path / "site" / "fast.py").is_file()
    assert kept(root) == {done.id, third[0].runtimes[0].id}


def test_a_name_is_on_the_disk_before_it_is_current(
    wheels: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the run that made it was ended after it had renamed it."""
    runtimes = make_runtimes(wheels, "3.13")
    done = put(runtimes, wheels, root)
    (root / "opt" / "edgeslm" / "current").unlink()
    order = []
    monkeypatch.setattr(installing, "sync", lambda path: order.append((path.name, links(root))))

    put(runtimes, wheels, root)
    assert order == [("runtimes", {}), ("edgeslm", {"current": done.id})]


def test_wheels_may_be_named_by_their_hashes(wheels: Path, root: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    for wheel in runtimes.wheels:
        (wheels / wheel.name).rename(wheels / wheel.sha256)
    assert put(runtimes, wheels, root).new


def test_a_changed_or_missing_wheel_is_refused(wheels: Path, root: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    path = wheels / runtimes.wheels[0].name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InvalidBundle, match="was changed"):
        put(runtimes, wheels, root)
    path.unlink()
    with pytest.raises(NotFound, match="not in"):
        put(runtimes, wheels, root)
    assert kept(root) == set()


def test_a_wheel_for_another_python_is_refused(wheels: Path, root: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    other = replace(runtimes.runtimes[0], python="3.12")
    with pytest.raises(InvalidBundle, match=r"cp313-cp313, not for Python 3\.12"):
        install(runtimes, other, wheels, root, durable=False)


def test_a_file_in_the_place_of_the_link_is_left_alone(wheels: Path, root: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13")
    current = root / "opt" / "edgeslm" / "current"
    current.mkdir(parents=True)
    with pytest.raises(OutputFailure, match="is not a link"):
        put(runtimes, wheels, root)
    assert current.is_dir()


def test_a_full_disk_is_told(wheels: Path, small_disk: Path) -> None:
    with pytest.raises(OutputFailure, match="are needed"):
        put(make_runtimes(wheels, "3.13"), wheels, small_disk)
    assert kept(small_disk) == set()


def test_the_best_that_a_processor_can_is_chosen(wheels: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13", sets=SETS)
    able = replace(FAR, features=frozenset({"asimd", "atomics", "asimddp"}))

    assert choose(runtimes, FAR).march == "armv8-a"
    assert choose(runtimes, able).march == "armv8.2-a+dotprod"


def test_what_nobody_can_run_is_refused(wheels: Path) -> None:
    runtimes = make_runtimes(wheels, "3.13", sets={"armv8.2-a+dotprod": ("atomics", "asimddp")})

    with pytest.raises(Unsupported, match="has no asimddp, atomics"):
        choose(runtimes, FAR)
    with pytest.raises(Unsupported, match=r"no runtime for aarch64, Python 3\.11; .*Python 3\.13"):
        choose(runtimes, replace(FAR, python=(3, 11)))
    with pytest.raises(Unsupported, match="no runtime for x86_64"):
        choose(runtimes, replace(FAR, architecture="x86_64"))
    with pytest.raises(Unsupported, match="no runtime for armv7l") as told:
        choose(runtimes, replace(FAR, architecture="armv7l"))
    assert "64-bit system" in (told.value.hint or "")
    with pytest.raises(Unsupported, match=r"needs glibc 2\.34, this system has 2\.31"):
        choose(runtimes, replace(FAR, features=None, glibc=(2, 31)))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="devices have Python 3.11 or newer")
@pytest.mark.parametrize(
    ("program", "loading", "said"),
    [
        (b"import sys\nsys.exit('it is broken')\n", b"", "does not start: it is broken"),
        (b"import os\nos.kill(os.getpid(), 4)\n", b"", "does not start: it ends with signal 4"),
        (b"", b"import sys\nsys.exit('no libgomp.so.1')\n", "does not start: no libgomp.so.1"),
    ],
)
def test_what_does_not_start_is_never_current(
    wheels: Path, root: Path, program: bytes, loading: bytes, said: str
) -> None:
    more = {"edgeslm/llama/described.py": loading}
    runtimes = made_here(wheels, program=program, more=more)
    with pytest.raises(Unhealthy, match=said):
        install(
            *(runtimes, runtimes.runtimes[0], wheels, root),
            durable=False,
            tried=True,
            interpreter=sys.executable,
        )
    assert links(root) == {}
    assert kept(root) == set()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="devices have Python 3.11 or newer")
def test_what_no_longer_starts_is_not_gone_back_to(tmp_path: Path, root: Path) -> None:
    done = []
    for number in range(2):
        folder = tmp_path / f"wheels{number}"
        folder.mkdir()
        runtimes = made_here(folder, program=f"print({number})\n".encode())
        given = (runtimes, runtimes.runtimes[0], folder, root)
        done.append(
            install(*given, durable=False, tried=True, compiled=False, interpreter=sys.executable)
        )
    first, second = done
    assert not list(first.path.rglob("*.pyc"))  # trying it leaves nothing
    (first.path / "site/edgeslm/__main__.py").write_text("raise SystemExit('old')")
    given = (*_again(tmp_path / "wheels0"), root)
    with pytest.raises(Unhealthy, match="does not start: old"):
        install(*given, durable=False, tried=True, interpreter=sys.executable)
    assert links(root) == {"current": second.id, "previous": first.id}


def made_here(folder: Path, **more: Any) -> RuntimeList:
    """Runtimes that this machine can run."""
    architecture = this_device().architecture
    return make_runtimes(folder, HERE, architecture=architecture, glibc="2.17", **more)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="devices have Python 3.11 or newer")
def test_a_bare_python_installs_and_runs_it(wheels: Path, tmp_path: Path) -> None:
    """As on a device: nothing but one file, the wheels, and a Python without packages."""
    make_runtimes(
        wheels,
        HERE,
        architecture=this_device().architecture,
        sets={"any": ()},
        glibc="2.17",
        program=b"import sys, fast\nprint(fast.x, sys.argv[1:], sys.flags.safe_path)\n",
    )
    program = tmp_path / "install.pyz"
    program.write_bytes(installer())
    root = tmp_path / "a root"
    words = ["--runtime", str(wheels / "runtime.json"), "--wheels", str(wheels)]
    command = [sys.executable, "-I", "-S", str(program), *words, "--root", str(root)]
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    (tmp_path / "edgeslm.py").write_text("raise SystemExit('not this one')")
    ran = subprocess.run(
        [root / "opt" / "edgeslm" / "current" / "bin" / "edgeslm", "an argument"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert [json.loads(each.stdout)["new"] for each in done] == [True, False]
    assert ran.stdout == "1 ['an argument'] True\n"
    assert list((root / "opt" / "edgeslm" / "current" / "site").rglob("fast.*.pyc"))


def test_bad_documents_are_told_in_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("", "{}", '{"schema": "edgeslm.runtime/1", "runtimes": 1}', "[]"):
        (tmp_path / "runtime.json").write_text(text)
        words = ["--runtime", str(tmp_path / "runtime.json"), "--wheels", str(tmp_path)]
        assert installing.main([*words, "--root", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert "\nhint: " in said


def test_the_installer_is_always_the_same() -> None:
    assert installer() == installer()
