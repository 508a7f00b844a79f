"""The search finds what is best on machines whose speeds are made up, and keeps it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boards
import pytest

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.gguf.validation import read_model
from edgeslm.llama.closing import Closing
from edgeslm.llama.model import Model
from edgeslm.profiling import tuning
from edgeslm.profiling.sustained import run_sustained
from edgeslm.profiling.trials import Lengths, Trials
from edgeslm.profiling.tuning import TuneOptions, Tuning, is_busy, tune
from edgeslm.runtime import tuned
from edgeslm.runtime.cores import clusters
from edgeslm.runtime.machine import CpuTimes, Heat, Sensors
from edgeslm.runtime.tuned import Choice

ONE = Choice(1, 1, 128, "F16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuned"


class Board(Closing):
    """Big cores at twice the speed of small ones; all threads wait for the slowest."""

    def __init__(self, model: Model, lengths: Lengths) -> None:
        self.lengths = lengths

    def close(self) -> None:
        pass

    def decode(self, choice: Choice) -> float:
        pinned = choice.cores == (4, 5, 6, 7)
        speed = min(choice.threads, 3) * 10.0 * (2 if pinned else 1)
        if pinned and choice.threads > 4:
            speed /= 20
        return speed * (1.3 if choice.kv_type == "Q8_0" else 1.0)

    def prefill(self, choice: Choice) -> float:
        return choice.prefill_threads * 100.0 * (1.0 if choice.ubatch >= 128 else 0.5)


@pytest.fixture
def rk3588(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs = boards.lay_out(boards.RK3588, tmp_path / "board") / "sys/devices/system/cpu"
    monkeypatch.setattr(tuning, "Trials", Board)
    monkeypatch.setattr(tuning, "allowed_cores", lambda: tuple(range(8)))
    monkeypatch.setattr(tuning, "clusters", lambda: clusters(sysfs, range(8)))
    monkeypatch.setattr(tuning, "default_choice", lambda: Choice(4, 4, 512, "F16"))


def _quiet(monkeypatch: pytest.MonkeyPatch, others: float = 0.0) -> None:
    times = iter((CpuTimes(0.0, 0.0, 0.0), CpuTimes(10.0, 10.0 * others, 0.0)))
    monkeypatch.setattr(Sensors, "cpu_times", lambda self: next(times))


@pytest.mark.usefixtures("rk3588")
def test_the_big_cores_are_found_and_fewer_threads_where_more_do_not_help(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _quiet(monkeypatch)
    found = tune(tiny_model, TuneOptions())
    assert found.tuned.choice == Choice(3, 4, 128, "Q8_0", (4, 5, 6, 7))
    assert found.kept is not None
    assert tuned.find(tuned.place_of(read_model(tiny_model))) == found.tuned
    by_name = {finding.setting: finding for finding in found.findings}
    assert by_name["decode threads"].chosen == "3"
    assert by_name["cores"].chosen == "3 on cores 4,5,6,7"
    assert by_name["cores"].reason.startswith("100% faster than 3 on any cores") or (
        "simpler than 4 on cores" in by_name["cores"].reason
    )
    assert by_name["micro-batch"].measured == "prefill"
    assert by_name["KV cache"].reason == "30% faster than F16"
    # what runs unless it is asked for: the default's type of cache
    assert found.tuned.chosen_speeds.decode.median == 60.0
    assert found.tuned.default_speeds.decode.median == 30.0
    assert found.replaced is None


@pytest.mark.usefixtures("rk3588")
def test_what_is_found_again_says_what_it_replaces(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _quiet(monkeypatch)
    first = tune(tiny_model, TuneOptions(quick=True))
    _quiet(monkeypatch)
    again = tune(tiny_model, TuneOptions(threads=2))
    assert again.replaced == first.tuned.choice
    assert again.tuned.choice.threads == 2


@pytest.mark.usefixtures("rk3588")
@pytest.mark.parametrize("anyway", [False, True])
def test_on_a_busy_machine_nothing_is_kept_unless_told(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, anyway: bool
) -> None:
    _quiet(monkeypatch, others=0.5)
    found = tune(tiny_model, TuneOptions(anyway=anyway))
    assert found.other_cores == 0.5
    assert (found.kept is not None) == anyway == own_cache.exists()
    assert "0.5 cores" in found.warnings[0]


@pytest.mark.usefixtures("rk3588")
def test_a_machine_that_is_held_back_is_reported(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _quiet(monkeypatch)
    monkeypatch.setattr(Sensors, "heat", lambda self: Heat(90.0, 85.0, ("throttled",), ()))
    assert "throttled" in tune(tiny_model, TuneOptions()).warnings[0]


@pytest.mark.usefixtures("rk3588")
def test_a_type_of_cache_that_the_model_cannot_have_is_left_out(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _quiet(monkeypatch)
    decode = Board.decode

    def refusing(self: Board, choice: Choice) -> float:
        if choice.kv_type != "F16":
            raise NativeFailure("no")
        return decode(self, choice)

    monkeypatch.setattr(Board, "decode", refusing)
    assert tune(tiny_model, TuneOptions()).tuned.choice.kv_type == "F16"


def _tune_recorded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tuning, dict[str, set[Choice]]]:
    """A search, and which combinations ran: for decode, and for prefill."""
    ran: dict[str, set[Choice]] = {"decode": set(), "prefill": set()}
    for name, choices in ran.items():
        run = getattr(Board, name)

        def recorded(
            self: Board,
            choice: Choice,
            run: Callable[[Board, Choice], float] = run,
            choices: set[Choice] = choices,
        ) -> float:
            choices.add(choice)
            return run(self, choice)

        monkeypatch.setattr(Board, name, recorded)
    _quiet(monkeypatch)
    return tune(model, TuneOptions()), ran


@pytest.mark.usefixtures("rk3588")
def test_what_is_left_of_a_choice_runs_again_as_a_whole(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cores and micro-batch were good with what the other was before, and are not together."""
    decode, prefill = Board.decode, Board.prefill

    def disturbed(self: Board, choice: Choice) -> float:
        return decode(self, choice) / (10 if choice.cores and choice.ubatch < 512 else 1)

    def helped(self: Board, choice: Choice) -> float:
        return prefill(self, choice) * (1.5 if choice.cores else 1.0)

    monkeypatch.setattr(Board, "decode", disturbed)
    monkeypatch.setattr(Board, "prefill", helped)
    found, ran = _tune_recorded(tiny_model, monkeypatch)
    assert found.tuned.choice == Choice(4, 4, 128, "Q8_0")
    assert found.notes == ("decode: the defaults were clearly faster after all, and stay",)
    as_it_runs = replace(found.tuned.choice, kv_type=found.tuned.chosen_speeds.kv_type)
    assert as_it_runs in ran["decode"] & ran["prefill"]
    assert found.tuned.chosen_speeds.decode.median == 30.0
    assert found.tuned.chosen_speeds.prefill.median == 400.0  # not 600, as on the cores


@pytest.mark.usefixtures("rk3588")
def test_where_nothing_of_a_choice_holds_the_defaults_stay(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cores, chosen for decode, ruin prefill, whose own settings are the defaults already."""
    prefill = Board.prefill
    monkeypatch.setattr(
        Board, "prefill", lambda self, choice: prefill(self, choice) / (10 if choice.cores else 1)
    )
    monkeypatch.setattr(tuning, "default_choice", lambda: Choice(4, 4, 128, "F16"))
    found, _ = _tune_recorded(tiny_model, monkeypatch)
    assert found.tuned.choice == replace(found.tuned.defaults, kv_type="Q8_0")
    assert found.tuned.chosen_speeds == found.tuned.default_speeds
    assert found.notes == ("prefill: the defaults were clearly faster after all, and stay",)


@pytest.mark.usefixtures("rk3588")
def test_speeds_say_with_which_type_of_cache_they_were_measured(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, ran = _tune_recorded(tiny_model, monkeypatch)
    assert found.tuned.choice.kv_type == "Q8_0"
    assert found.tuned.chosen_speeds.kv_type == found.tuned.default_speeds.kv_type == "F16"
    as_it_runs = replace(found.tuned.choice, kv_type="F16")
    assert as_it_runs in ran["decode"] & ran["prefill"]
    assert found.tuned.choice in ran["decode"]


def test_real_runs_of_a_tiny_model(tiny_model: Path) -> None:
    found = tune(tiny_model, TuneOptions(context_length=256, quick=True, anyway=True, threads=1))
    assert found.kept is not None
    assert found.tuned.choice.threads == found.tuned.choice.prefill_threads == 1
    assert found.tuned.context_length == 256
    assert {finding.setting for finding in found.findings} >= {"decode threads", "micro-batch"}
    for speeds in (found.tuned.chosen_speeds, found.tuned.default_speeds):
        assert min(*speeds.prefill.samples, *speeds.decode.samples) > 0


LENGTHS = Lengths(context=256, prompt=64, generated=8, depth=32)


@pytest.mark.parametrize("cores", [None, (0,)])
def test_trials_run_with_what_is_chosen(tiny_model: Path, cores: tuple[int, ...] | None) -> None:
    before = os.sched_getaffinity(0)
    with Model(tiny_model) as model, Trials(model, LENGTHS) as trials:
        for choice in (ONE, Choice(1, 1, 64, "F16", cores), Choice(1, 1, 32, "F16", cores)):
            for _ in range(2):
                assert trials.decode(choice) > 0
                assert trials.prefill(choice) > 0
        assert len(trials._contexts) == 2
        lane = trials._lane(cores)
        assert lane.submit(os.sched_getaffinity, 0).result() == (before if cores is None else {0})
    assert os.sched_getaffinity(0) == before


def test_a_closed_trial_gives_up(tiny_model: Path) -> None:
    with Model(tiny_model) as model:
        trials = Trials(model, LENGTHS)
        trials.decode(ONE)
        lane, opened = trials._lane(None), trials._opened(ONE)
        trials._closing = True
        future = lane.submit(trials._decode, opened)
        assert future.exception() is not None
        trials.close()


@pytest.mark.parametrize("options", [{"context_length": 100}, {"threads": 0}])
def test_searches_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        TuneOptions(**options)  # type: ignore[arg-type]


def test_busy_is_more_than_a_little_of_a_core() -> None:
    assert [is_busy(each) for each in (None, 0.0, 0.15, 0.16)] == [False, False, False, True]


class Ticking:
    """A clock that moves on by an eighth of a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.125
        return self.now


def test_what_lasts_is_the_last_third(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = boards.lay_out(boards.RPI4, tmp_path / "rpi4")
    sensors = Sensors(root, range(4))
    monkeypatch.setattr(tuned, "default_threads", lambda: 1)
    found = run_sustained(tiny_model, 3.0, sensors, clock=Ticking())
    assert [each.since for each in found.windows] == [0.0, 1.125, 2.25]
    assert found.sustained.samples == (found.windows[-1].tokens_per_second,)
    assert found.peak == max(each.tokens_per_second for each in found.windows) == 8.0
    assert found.tokens == 24
    assert found.held_back == ("frequency capped", "throttled")
    assert found.hottest_celsius == 81.3
    assert found.lowest_megahertz == 1500.0
    assert found.other_cores is None


def test_what_the_sensors_take_is_no_part_of_a_window(tiny_model: Path, tmp_path: Path) -> None:
    clock = Ticking()

    class Slow(Sensors):
        def heat(self) -> Heat:
            clock.now += 0.25
            return super().heat()

    found = run_sustained(tiny_model, 6.0, Slow(tmp_path, range(1)), clock=clock)
    assert len(found.windows) > 2
    assert {each.tokens_per_second for each in found.windows} == {8.0}


@pytest.mark.parametrize("seconds", [-math.inf, 1.0, 2.9, 86_401.0, 1e300, math.inf, math.nan])
def test_what_is_no_time_to_run_for_is_refused(tiny_model: Path, seconds: float) -> None:
    with pytest.raises(InvalidOption):
        run_sustained(tiny_model, seconds)
