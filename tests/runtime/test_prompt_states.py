"""The folder of states: found by what a prompt begins with, bounded, and never wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.runtime.prompt_states import PromptStates
from edgeslm.runtime.state_file import Origin
from edgeslm.testing import tiny_gguf

ORIGIN = Origin("a" * 64, "build 1", "F16")
OTHERS = (
    Origin("b" * 64, "build 1", "F16"),
    Origin("a" * 64, "build 2", "F16"),
    Origin("a" * 64, "build 1", "Q8_0"),
    Origin("a" * 64, "build 1", "F16", "adapter"),
)


def _keep(
    states: PromptStates, tokens: list[int], size: int = 1000, origin: Origin = ORIGIN
) -> bool:
    def fill(target: memoryview) -> None:
        target[:] = bytes([tokens[-1] % 256]) * size

    return states.keep(origin, tokens, size, fill)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _kept(folder: Path, *prompts: list[int], origin: Origin = ORIGIN) -> None:
    with PromptStates(folder) as states:
        for tokens in prompts:
            assert _keep(states, tokens, origin=origin)


def test_the_longest_beginning_is_found(tmp_path: Path) -> None:
    _kept(tmp_path, [1, 2], [1, 2, 3], [1, 2, 4, 4])
    with PromptStates(tmp_path) as states:
        found = states.longest(ORIGIN, [1, 2, 3, 9, 9], beyond=0)
        assert found is not None
        assert found.head.tokens == (1, 2, 3)
        assert bytes(found.state) == b"\3" * 1000
        assert states.longest(ORIGIN, [1, 2, 3, 9], beyond=3) is None
        assert states.longest(ORIGIN, [1, 3, 3, 9], beyond=0) is None


def test_a_token_of_the_prompt_is_left_to_compute(tmp_path: Path) -> None:
    _kept(tmp_path, [1, 2, 3])
    with PromptStates(tmp_path) as states:
        assert states.longest(ORIGIN, [1, 2, 3], beyond=0) is None
        assert states.longest(ORIGIN, [1, 2, 3, 4], beyond=0) is not None


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_is_of_its_origin_alone(tmp_path: Path, other: Origin) -> None:
    _kept(tmp_path, [1, 2, 3])
    with PromptStates(tmp_path) as states:
        assert states.longest(other, [1, 2, 3, 4], beyond=0) is None
        assert states.latest(other, most=10) is None
        assert states.longest(ORIGIN, [1, 2, 3, 4], beyond=0) is not None


def test_a_damaged_state_is_removed_and_a_shorter_one_serves(tmp_path: Path) -> None:
    _kept(tmp_path, [1, 2], [1, 2, 3])
    longer = next(path for path in tmp_path.iterdir() if "-00000003-" in path.name)
    data = bytearray(longer.read_bytes())
    data[-1] ^= 1
    longer.write_bytes(data)
    with PromptStates(tmp_path) as states:
        found = states.longest(ORIGIN, [1, 2, 3, 4], beyond=0)
        assert found is not None
        assert found.head.tokens == (1, 2)
    assert not longer.exists()


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    with PromptStates(tmp_path, most_bytes=4000) as states:
        for number in (1, 2, 3):
            assert _keep(states, [number, 0])
    for number, path in enumerate(
        sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    ):
        os.utime(path, (number, number))
    with PromptStates(tmp_path, most_bytes=4000) as states:
        assert states.longest(ORIGIN, [1, 0, 0], beyond=0) is not None
        assert _keep(states, [4, 0])
    with PromptStates(tmp_path, most_bytes=4000) as states:
        there = [bool(states.longest(ORIGIN, [n, 0, 0], beyond=0)) for n in (1, 2, 3, 4)]
    assert there == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000


def test_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    with PromptStates(tmp_path, most_bytes=999) as states:
        assert not _keep(states, [1, 2])
    assert list(tmp_path.iterdir()) == []


def test_no_room_or_no_folder_keeps_nothing(tmp_path: Path) -> None:
    for folder, size in ((None, 10_000), (tmp_path, 0)):
        with PromptStates(folder, size) as states:
            assert states.empty
            assert not _keep(states, [1, 2])


def test_a_full_disk_costs_only_the_state(small_disk: Path) -> None:
    with PromptStates(small_disk) as states:
        assert not _keep(states, [1, 2], size=300_000)
        assert _keep(states, [1, 3], size=1000)
    assert [path.name[-6:] for path in small_disk.iterdir()] == [".state"]


def test_after_many_that_nobody_wanted_the_second_time_counts(tmp_path: Path) -> None:
    with PromptStates(tmp_path) as states:
        kept = [_keep(states, [number, 0]) for number in range(12)]
        assert kept == [True] * 8 + [False] * 4
        assert _keep(states, [11, 0])
    with PromptStates(tmp_path) as states:
        for number in range(8):
            assert _keep(states, [100 + number, 0])
        _until(lambda: states.written == 8)
        assert states.longest(ORIGIN, [100, 0, 0], beyond=0) is not None
        assert _keep(states, [200, 0])


def test_the_latest_is_the_one_used_last(tmp_path: Path) -> None:
    _kept(tmp_path, [1, 2, 3], [4, 5])
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1) if "-00000003-" in path.name else (2, 2))
    with PromptStates(tmp_path) as states:
        latest = states.latest(ORIGIN, most=10)
        assert latest is not None
        assert latest.head.tokens == (4, 5)
        assert states.longest(ORIGIN, [1, 2, 3, 4], beyond=0) is not None
        latest = states.latest(ORIGIN, most=10)
        assert latest is not None
        assert latest.head.tokens == (1, 2, 3)
        assert states.latest(ORIGIN, most=1) is None


def test_given_states_serve_and_stay(tmp_path: Path) -> None:
    _kept(tmp_path / "given", [1, 2, 3])
    given = tuple((tmp_path / "given").iterdir())
    with PromptStates(tmp_path / "own", given=given) as states:
        assert not states.empty
        assert states.longest(ORIGIN, [1, 2, 3, 4], beyond=0) is not None
        assert not _keep(states, [1, 2, 3])
        latest = states.latest(ORIGIN, most=5)
        assert latest is not None
        assert latest.head.tokens == (1, 2, 3)
    given[0].write_bytes(given[0].read_bytes()[:-1])
    with PromptStates(tmp_path / "own", given=given) as states:
        assert states.longest(ORIGIN, [1, 2, 3, 4], beyond=0) is None
    assert given[0].exists()


def test_others_cannot_read_what_was_said(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    _kept(folder, [1, 2])
    assert folder.stat().st_mode & 0o077 == 0
    assert next(folder.iterdir()).stat().st_mode & 0o077 == 0


def test_a_folder_of_somebody_else_costs_only_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_args: object, **_more: object) -> bool:
        raise PermissionError(13, "denied")

    with PromptStates(tmp_path / "states") as states:
        monkeypatch.setattr(Path, "exists", denied)
        monkeypatch.setattr(Path, "iterdir", denied)
        assert states.empty
        assert not _keep(states, [1, 2])
        assert states.longest(ORIGIN, [1, 2, 3], beyond=0) is None


WRITER = """
import sys
from pathlib import Path
from edgeslm.runtime.prompt_states import PromptStates
from edgeslm.runtime.state_file import Origin

origin = Origin("a" * 64, "build 1", "F16")
with PromptStates(Path(sys.argv[1]), 30_000_000) as states:
    print("ready", flush=True)
    for number in range(1_000_000):
        states._unproven.clear()
        tokens = [number % 50, number]
        def fill(target, mark=bytes([number % 251])):
            target[:] = mark * len(target)
        states.keep(origin, tokens, 1_000_000, fill)
"""


def test_a_process_that_is_killed_leaves_no_wrong_state(tmp_path: Path) -> None:
    for round_ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.017 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with PromptStates(tmp_path, 30_000_000) as states:
            for path in states.files():
                number = int(path.name.split("-")[1])
                assert number == 2
            latest = states.latest(ORIGIN, most=10)
            if latest is not None:
                mark = bytes([latest.head.tokens[1] % 251])
                assert bytes(latest.state) == mark * 1_000_000
            assert _keep(states, [99, round_], 1_000_000)
        left = [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
        assert left == []


@pytest.mark.slow
def test_fifty_kills_of_the_program_leave_no_wrong_state(tmp_path: Path) -> None:
    """Killed at any moment, the next run works, answers the same, and all states are right."""
    model = tiny_gguf(
        tmp_path / "model.gguf", layers=8, width=256, heads=4, kv_heads=4, context_length=4096
    )
    states = tmp_path / "cache" / "states"
    command = [
        *(sys.executable, "-m", "edgeslm", "run", str(model), "-p", "Who are you?", "--json"),
        *("--system", "You answer in rhymes. " * 60, "--temperature", "0", "-n", "4", "-t", "1"),
        *("--context", "4096", "--no-speculate"),
    ]
    environment = os.environ | {"EDGESLM_CACHE": str(tmp_path / "cache")}

    def run() -> tuple[list[int], int]:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        return answer["tokens"], answer["reused_tokens"]

    expected, _ = run()
    whole = {path.name: path.read_bytes() for path in states.iterdir()}
    assert len(whole) == 1
    began = time.monotonic()
    shutil.rmtree(states)
    run()
    duration = time.monotonic() - began
    chance = random.Random(1)
    kept = 0
    for _ in range(50):
        shutil.rmtree(states, ignore_errors=True)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.3, 1.05) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = {path.name: path.read_bytes() for path in states.glob("*.state")}
        assert found in ({}, whole)
        kept += bool(found)
        answered, reused = run()
        assert answered == expected
        assert bool(reused) == bool(found)
        assert {path.name for path in states.iterdir()} == set(whole)
    assert 0 < kept < 50
