"""Who computes is kept on the best cores; nobody else is, and nobody for longer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from edgeslm.cli.opening import Wanted, opened
from edgeslm.gguf.validation import read_model
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.profiling.profile import ProfileOptions, profile
from edgeslm.profiling.sustained import run_sustained
from edgeslm.records import Statistic
from edgeslm.runtime import tuned
from edgeslm.runtime.cores import pin, pinned
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.governor import governor_of
from edgeslm.runtime.server.hosted import Hosted, HostOptions
from edgeslm.runtime.tuned import Choice, Speeds, Tuned, place_of

if not hasattr(os, "sched_getaffinity"):
    pytest.skip("this system keeps nobody on a core", allow_module_level=True)

FIRST = min(os.sched_getaffinity(0))
ONE = Choice(1, 1, 128, "F16", (FIRST,))
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only")


@pytest.fixture(autouse=True)
def unpinned() -> Iterator[set[int]]:
    """This thread's cores, which are the same afterwards."""
    before = os.sched_getaffinity(0)
    yield before
    after = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    assert after == before


@pytest.fixture
def tuned_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that runs best on the first core."""
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    speeds = Speeds(Statistic.of([1.0]), Statistic.of([1.0]), "F16")
    place = place_of(read_model(tiny_model))
    tuned.save(Tuned(place, "tiny.gguf", "2026-01-02", 512, ONE, ONE, speeds, speeds))
    return tiny_model


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """On which cores each step was computed."""
    cores: list[set[int]] = []
    step, prefill = Context.step, Context.prefill

    def watched_step(*arguments: object) -> None:
        cores.append(os.sched_getaffinity(0))
        step(*arguments)  # type: ignore[arg-type]

    def watched_prefill(*arguments: object, **named: object) -> None:
        cores.append(os.sched_getaffinity(0))
        prefill(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "step", watched_step)
    monkeypatch.setattr(Context, "prefill", watched_prefill)
    return cores


def test_what_is_settled_changes_nothing(tuned_model: Path) -> None:
    header = read_model(tuned_model)
    settled = tuned.settle(header, ContextOptions(), threads=None, kv_type="F16")
    assert settled.cores == (FIRST,)  # and the fixture looks at this thread


def test_a_block_is_kept_on_cores_and_no_longer(unpinned: set[int]) -> None:
    with pinned((FIRST,)):
        assert os.sched_getaffinity(0) == {FIRST}
    assert os.sched_getaffinity(0) == unpinned
    with pytest.raises(ValueError, match="broken"), pinned((FIRST,)):
        raise ValueError("broken")
    assert os.sched_getaffinity(0) == unpinned


@pytest.mark.parametrize("cores", [None, (4000,)])
def test_none_and_cores_that_are_not_there_change_nothing(
    cores: tuple[int, ...] | None, unpinned: set[int]
) -> None:
    assert not pin(cores)
    with pinned(cores):
        assert os.sched_getaffinity(0) == unpinned


def test_threads_that_outlive_the_block_may_run_anywhere_again(unpinned: set[int]) -> None:
    ready, done = threading.Barrier(3), threading.Event()

    def wait() -> None:
        ready.wait()
        done.wait()

    older = threading.Thread(target=lambda: (pin((FIRST,)), wait()))
    older.start()
    with pinned((FIRST,)):
        younger = threading.Thread(target=wait)
        younger.start()
        ready.wait()
        assert os.sched_getaffinity(younger.native_id or 0) == {FIRST}
    assert os.sched_getaffinity(younger.native_id or 0) == unpinned
    assert os.sched_getaffinity(older.native_id or 0) == {FIRST}  # by its own wish
    done.set()
    for thread in (older, younger):
        thread.join()


def test_an_engine_s_thread_is_and_the_caller_s_is_not(tiny_model: Path) -> None:
    options = ContextOptions(length=256, threads=2)
    with Model(tiny_model) as model, Engine(model, options, cores=(FIRST,)) as engine:
        assert engine.run(lambda: os.sched_getaffinity(0)).result() == {FIRST}
        governor = engine._scheduler.governor
        assert governor is not None
        assert governor._sensors.cores == (FIRST,)


def test_a_governor_counts_the_cores_it_is_told(tiny_model: Path) -> None:
    options = ContextOptions(length=256, threads=2)
    with Model(tiny_model) as model, Context(model, options) as context:
        governor = governor_of(context, (FIRST,))
        assert governor is not None
        assert governor._limits.cores <= 1.0


def test_a_served_model_computes_on_its_cores(tuned_model: Path) -> None:
    options = HostOptions(slots=1, context=256, threads=None)
    with Hosted("tiny", tuned_model, options) as hosted:
        assert hosted.engine.run(lambda: os.sched_getaffinity(0)).result() == {FIRST}
        # where an embedding model, which has no engine, makes vectors
        assert hosted._alone.submit(os.sched_getaffinity, 0).result() == {FIRST}


def test_what_the_command_line_opens_is_kept_there_until_it_is_closed(
    tuned_model: Path, unpinned: set[int]
) -> None:
    with opened(Wanted(tuned_model, 256)) as ready:
        assert os.sched_getaffinity(0) == {FIRST}
        assert ready.settled.cores == (FIRST,)
    assert os.sched_getaffinity(0) == unpinned


def test_a_profile_measures_there(tuned_model: Path, seen: list[set[int]]) -> None:
    short = {"prompt_tokens": 16, "generated_tokens": 4, "repeats": 1, "warm_up_seconds": 0}
    profile(tuned_model, ProfileOptions(**short, most_repeats=None))
    assert seen
    assert all(cores == {FIRST} for cores in seen)


def test_what_lasts_is_measured_there(tuned_model: Path, seen: list[set[int]]) -> None:
    run_sustained(tuned_model, 3.0, clock=count(0, 0.25).__next__)
    assert seen
    assert all(cores == {FIRST} for cores in seen)
