from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm import files
from edgeslm.errors import NativeFailure
from edgeslm.files import cache_folder
from edgeslm.llama import guard, native, probe
from edgeslm.llama.model import Model, ModelOptions
from edgeslm.testing import tiny_gguf


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    return tiny_gguf(tmp_path / "model.gguf")


def _count_children(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    started: list[object] = []
    run = subprocess.run

    def counted(*arguments: object, **options: object) -> object:
        started.append(arguments)
        return run(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", counted)
    return started


def test_a_file_that_passed_is_not_tried_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = _count_children(monkeypatch)
    guard.ensure_loadable(model)
    guard.ensure_loadable(model)
    assert len(started) == 1


def test_a_file_that_changed_is_tried_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = _count_children(monkeypatch)
    guard.ensure_loadable(model)
    tiny_gguf(model, seed=1)
    guard.ensure_loadable(model)
    assert len(started) == 2


def test_another_name_changes_nothing_where_the_notes_are_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = _count_children(monkeypatch)
    guard.ensure_loadable(model)
    digest = files.remembered_sha256(model)
    again = model.with_name("again.gguf")
    with files.keeping_notes(model):
        again.hardlink_to(model)
    with files.keeping_notes(model):
        model.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256", lambda _path: pytest.fail("read again"))
        assert files.remembered_sha256(again) == digest
    guard.ensure_loadable(again)
    assert len(started) == 1


def test_what_is_written_meanwhile_is_tried_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = _count_children(monkeypatch)
    guard.ensure_loadable(model)
    data = model.read_bytes()
    with files.keeping_notes(model):
        model.write_bytes(data)
    guard.ensure_loadable(model)
    assert len(started) == 2


def test_a_failure_is_not_remembered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.write_bytes(model.read_bytes().replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight"))
    started = _count_children(monkeypatch)
    for _ in range(2):
        with pytest.raises(NativeFailure, match="not found"):
            guard.ensure_loadable(model)
    assert len(started) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGFPE)", "SIGFPE"),
        ("import os, sys; sys.stderr.write('GGML_ASSERT(n > 0) failed\\n'); os.abort()", "n > 0"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_a_crash_of_the_child_becomes_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: str
) -> None:
    run = subprocess.run

    def crash(command: list[str], **options: object) -> object:
        script = tmp_path / "crash.py"
        script.write_text(f"import sys; sys.stderr.flush()\n{code}")
        return run([command[0], str(script)], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", crash)
    with pytest.raises(NativeFailure) as caught:
        guard.ensure_loadable(model)
    assert expected in caught.value.message
    assert "crashes" in caught.value.message


def test_without_a_cache_every_start_tries(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESLM_CACHE", "/dev/null/no-folder")
    started = _count_children(monkeypatch)
    guard.ensure_loadable(model)
    guard.ensure_loadable(model)
    assert len(started) == 2
    assert cache_folder("loadable") == Path("/dev/null/no-folder/loadable")


def test_a_child_that_hangs_is_given_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_PATIENCE_SECONDS", 0.01)
    with pytest.raises(NativeFailure, match="did not finish"):
        guard.ensure_loadable(model)


def _with_amx(monkeypatch: pytest.MonkeyPatch, ending: int) -> list[bool]:
    """A build with AMX whose kernels end the child so; whether each child was to use them."""
    asked: list[bool] = []
    run = subprocess.run

    def runs(command: list[str], **options: object) -> object:
        asked.append("--repack" in command)
        done = run(command, **options)  # type: ignore[call-overload]
        return subprocess.CompletedProcess(command, ending if asked[-1] else done.returncode)

    build = native.build_info()
    amx = dataclasses.replace(build, features=(*build.features, "AMX_INT8"))
    monkeypatch.setattr(native, "build_info", lambda: amx)
    monkeypatch.setattr(subprocess, "run", runs)
    return asked


def test_kernels_that_the_compiler_got_wrong_are_told(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _with_amx(monkeypatch, -signal.SIGSEGV)
    for _ in range(2):
        with pytest.raises(NativeFailure, match="AMX fault") as told:
            guard.ensure_loadable(model)
    assert asked == [False, True] * 2
    assert (told.value.hint or "").endswith(f"llama-cpp-python=={native.build_info().binding}")


@pytest.mark.parametrize("ending", [0, -signal.SIGKILL])
def test_kernels_that_do_not_fault_are_tried_once(
    model: Path, monkeypatch: pytest.MonkeyPatch, ending: int
) -> None:
    """Nor is a child to blame that the memory was too small for."""
    asked = _with_amx(monkeypatch, ending)
    guard.ensure_loadable(model)
    guard.ensure_loadable(model)
    assert asked == [False, True]


@pytest.mark.parametrize("repack", [False, True])
def test_the_probe_copies_weights_where_it_is_asked_to(
    model: Path, monkeypatch: pytest.MonkeyPatch, repack: bool
) -> None:
    loaded: list[ModelOptions] = []

    def load(path: Path, options: ModelOptions) -> Model:
        loaded.append(options)
        return Model(path, options)

    monkeypatch.setattr(probe, "Model", load)
    monkeypatch.setattr(sys, "argv", ["probe", str(model), *(["--repack"] if repack else [])])
    assert probe._main() == 0
    assert [options.repack for options in loaded] == [repack]


def test_a_processor_without_such_kernels_is_not_asked_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = _count_children(monkeypatch)
    build = native.build_info()
    plain = tuple(each for each in build.features if each != "AMX_INT8")
    monkeypatch.setattr(native, "build_info", lambda: dataclasses.replace(build, features=plain))
    guard.ensure_loadable(model)
    assert len(started) == 1
