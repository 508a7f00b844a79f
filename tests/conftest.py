"""Shared by all tests: a tiny model that truly runs, folders of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from shown_commands import StandIns, make_stand_ins
from warm import Warm

from edgeslm.testing import tiny_gguf


def pytest_configure() -> None:
    """Before anything loads OpenMP, and before any process is started."""
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")  # two with two threads slow each other tenfold
    _heed_signals()


def _heed_signals() -> None:
    """Undo what nohup, or a shell's &, lets every program inherit: signals that are ignored."""
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


settings.register_profile("edgeslm", deadline=None)  # how long a test takes, the machine decides
settings.load_profile("edgeslm")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGESLM_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("EDGESLM_CONFIG", str(tmp_path_factory.mktemp("config")))
    patch.delenv("EDGESLM_TRUSTED_KEYS", raising=False)
    patch.setenv("EDGESLM_STATE", str(tmp_path_factory.mktemp("state")))
    patch.setenv("EDGESLM_WARM_UP", "0")  # figures of tiny models are not for anybody
    patch.setenv("EDGESLM_STORE", str(tmp_path_factory.mktemp("store") / "store"))
    patch.setenv("EDGESLM_TARGETS", str(tmp_path_factory.mktemp("targets")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of some hundred kilobytes with random weights; never write to it."""
    return tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", context_length=512)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def warm(_own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """What starts commands without starting Python anew."""
    warm = Warm(str(tmp_path_factory.mktemp("warm") / "socket"))
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def stand_ins(tiny_model: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """What the pages' commands read; never write to it."""
    return make_stand_ins(tiny_model, tmp_path_factory.mktemp("stand-ins"), warm)
