from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boards
import psutil
import pytest

from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.governor import Governor, default_threads, governor_of
from edgeslm.runtime.machine import CpuTimes, Heat
from edgeslm.runtime.session import Session


def _board(root: Path, capacities: list[int], monkeypatch: pytest.MonkeyPatch) -> Path:
    for core, capacity in enumerate(capacities):
        folder = root / f"cpu{core}"
        folder.mkdir()
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _pid: set(range(len(capacities))), raising=False
    )
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: len(capacities))
    return root


def test_only_the_fast_cores_of_a_big_little_board_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _board(tmp_path, [530, 530, 530, 530, 1024, 1024, 1024, 1024], monkeypatch)
    assert default_threads(root) == 4


def test_clusters_that_differ_a_little_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacities = [414] * 4 + [1008] * 2 + [1024] * 2
    assert default_threads(_board(tmp_path, capacities, monkeypatch)) == 4


def test_equal_cores_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_threads(_board(tmp_path, [1024] * 4, monkeypatch)) == 4


def test_a_second_thread_per_core_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert default_threads(tmp_path) == 4


def test_cores_that_are_not_allowed_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3}, raising=False)
    assert default_threads(tmp_path) == 1


def test_the_faster_cores_of_a_processor_with_two_kinds_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 12)
    root = boards.lay_out(boards.X86_HYBRID, tmp_path)
    assert default_threads(root / "sys/devices/system/cpu", tmp_path) == 4


def test_a_container_gets_no_more_threads_than_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _board(tmp_path, [1024] * 4, monkeypatch)
    for quota, threads in ((250_000, 2), (50_000, 1)):
        boards.lay_out({"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}, tmp_path)
        assert default_threads(root, tmp_path) == threads


class Machine:
    """A machine with two cores, a clock that is moved by hand, and programs beside ours."""

    cores = (0, 1)

    def __init__(self) -> None:
        self.now = self.own = self.others = 0.0
        self.looks = 0
        self.warm: tuple[str, ...] = ()

    def cpu_times(self) -> CpuTimes:
        self.looks += 1
        return CpuTimes(self.now, self.own + self.others, self.own)

    def heat(self) -> Heat:
        return Heat(50.0, 85.0, self.warm, ())

    def clock(self) -> float:
        return self.now

    def run(self, governor: Governor, seconds: float, *, neighbours: float = 0.0) -> None:
        """Steps of one token, each 10 ms or what the neighbours make of it."""
        end = self.now + seconds
        while self.now < end:
            with governor.watching(1):
                threads = governor.threads[0]
                share = min(1.0, 2 / (threads + neighbours))
                step = 0.01 / share
                self.now += step
                self.own += threads * share * step
                self.others += neighbours * share * step

    def rest(self, seconds: float, *, neighbours: float = 0.0) -> None:
        self.now += seconds
        self.others += min(2.0, neighbours) * seconds


def _governor(machine: Machine, decode: int = 2, prefill: int = 2) -> tuple[Governor, list[Any]]:
    set_to: list[Any] = []
    sensors: Any = machine
    governor = Governor(
        decode, prefill, lambda *threads: set_to.append(threads), sensors, clock=machine.clock
    )
    return governor, set_to


def test_a_thread_gives_way_within_half_a_second_and_comes_back() -> None:
    machine = Machine()
    governor, set_to = _governor(machine)
    machine.run(governor, 0.5, neighbours=1.0)
    assert set_to == [(1, 1)]
    machine.run(governor, 10, neighbours=1.0)
    assert set_to == [(1, 1)]
    machine.run(governor, 10)
    assert set_to == [(1, 1), (2, 2)]


def test_threads_for_prefill_and_decode_are_cut_each() -> None:
    machine = Machine()
    governor, set_to = _governor(machine, decode=1, prefill=2)
    machine.run(governor, 3, neighbours=1.0)
    assert set_to == [(1, 1)]


def test_looks_are_seconds_apart_and_an_idle_machine_changes_nothing() -> None:
    machine = Machine()
    governor, set_to = _governor(machine)
    machine.run(governor, 60)
    assert set_to == []
    assert machine.looks <= 33


def test_a_rest_shows_who_else_computes() -> None:
    machine = Machine()
    governor, set_to = _governor(machine)
    machine.run(governor, 1)
    machine.rest(4, neighbours=1.0)
    with governor.watching(1):
        assert set_to == [(1, 1)]


@pytest.mark.parametrize("rest", [4, 3600])
def test_what_a_look_takes_is_no_part_of_a_step(rest: float) -> None:
    machine = Machine()
    governor, _ = _governor(machine)
    machine.run(governor, 3)
    machine.rest(rest)
    cpu_times = machine.cpu_times

    def slowly() -> CpuTimes:
        machine.now += 0.2
        return cpu_times()

    machine.cpu_times = slowly  # type: ignore[method-assign]
    with governor.watching(1):
        machine.now += 0.01
    assert governor._window.work[1].seconds == pytest.approx(0.01)


def test_steps_of_one_size_are_counted_together() -> None:
    machine = Machine()
    governor, _ = _governor(machine)
    for tokens, seconds in ((1, 0.01), (4, 0.012), (1, 0.03), (512, 0.1)):
        with governor.watching(tokens):
            machine.now += seconds
    work = governor._window.work
    assert {tokens: each.steps for tokens, each in work.items()} == {1: 2, 4: 1}
    assert work[1].seconds == pytest.approx(0.04)


def test_a_long_rest_says_nothing() -> None:
    machine = Machine()
    governor, set_to = _governor(machine)
    machine.run(governor, 1)
    machine.rest(3600, neighbours=2.0)
    machine.run(governor, 10)
    assert set_to == []


def test_a_collapse_is_looked_into_at_once() -> None:
    machine = Machine()
    governor, set_to = _governor(machine)
    machine.run(governor, 4)
    for _ in range(8):  # far slower than ever, though nobody is seen to compute
        with governor.watching(1):
            machine.now += 0.1
            machine.own += 0.1
    assert set_to == [(1, 1)]


def test_slow_steps_that_stay_are_the_new_usual() -> None:
    machine = Machine()
    machine.cpu_times = lambda: None  # type: ignore[assignment, method-assign, return-value]
    governor, set_to = _governor(machine)
    for seconds, steps in ((0.01, 400), (0.1, 400)):
        for _ in range(steps):
            with governor.watching(1):
                machine.now += seconds
    assert set_to == [(1, 1), (2, 2)]


def test_heat_is_heeded() -> None:
    machine = Machine()
    machine.warm = ("throttled",)
    governor, set_to = _governor(machine)
    machine.run(governor, 12)
    assert set_to == [(1, 1)]


def test_a_failed_step_is_not_taken_into_account() -> None:
    machine = Machine()
    governor, _ = _governor(machine)
    with pytest.raises(ValueError, match="broken"), governor.watching(1):
        raise ValueError("broken")
    assert governor._window.work == {}


def test_one_thread_needs_no_governor(tiny_model: Path) -> None:
    with Model(tiny_model) as model:
        with Context(model, ContextOptions(length=256, threads=1)) as context:
            assert governor_of(context) is None
        with Context(model, ContextOptions(length=256, threads=1, prefill_threads=2)) as context:
            governor = governor_of(context)
            assert governor is not None
            assert governor.threads == (1, 2)


def test_a_session_and_an_engine_are_governed_unless_told_otherwise(tiny_model: Path) -> None:
    two = ContextOptions(length=256, threads=2)
    with Model(tiny_model) as model:
        for made in (Session, Engine):
            with made(model, two) as governed, made(model, two, governed=False) as free:
                assert governed._scheduler.governor is not None
                assert free._scheduler.governor is None


def test_a_session_tells_its_governor_of_every_step(tiny_model: Path) -> None:
    governor, _ = _governor(Machine())
    with (
        Model(tiny_model) as model,
        Session(model, ContextOptions(length=256, threads=1)) as session,
    ):
        session._scheduler.governor = governor
        prompt = model.tokenize("the and")
        endless = SamplingOptions(temperature=0, logit_bias=((0, -100), (1, -100), (2, -100)))
        answer = session.generate(prompt, GenerationOptions(5, sampling=endless))
        work = governor._window.work
        assert work[len(prompt)].steps == 1
        assert work[1].steps == len(answer.tokens) - 1
