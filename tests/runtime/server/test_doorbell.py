"""Another thread wakes an event loop, and keeps Python's lock while it does."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from edgeslm.runtime.server import doorbell
from edgeslm.runtime.server.doorbell import Doorbell


async def _answered(count: list[int]) -> None:
    end = time.monotonic() + 30
    while not count and time.monotonic() < end:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("piped", [True, False], ids=["by a pipe", "by the loop's own means"])
def test_the_loop_answers_whoever_rings(piped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not piped:
        monkeypatch.setattr(doorbell, "_write_with_lock", lambda: None)

    async def listen() -> list[threading.Thread]:
        answers: list[int] = []
        threads: list[threading.Thread] = []

        def answer() -> None:
            answers.append(1)
            threads.append(threading.current_thread())

        bell = Doorbell(asyncio.get_running_loop(), answer)
        for _ in range(3):
            answers.clear()
            ringing = threading.Thread(target=bell.ring)
            ringing.start()
            await _answered(answers)
            ringing.join()
            assert answers
        return threads

    assert set(asyncio.run(listen())) == {threading.current_thread()}


def test_rings_that_nobody_hears_yet_are_answered_together() -> None:
    async def listen() -> int:
        answers: list[int] = []
        bell = Doorbell(asyncio.get_running_loop(), lambda: answers.append(1))
        for _ in range(100_000):  # more than a pipe holds
            bell.ring()
        await _answered(answers)
        return len(answers)

    assert 0 < asyncio.run(listen()) < 1000


def test_a_loop_that_is_closed_is_not_woken() -> None:
    async def make() -> Doorbell:
        return Doorbell(asyncio.get_running_loop(), lambda: None)

    bell = asyncio.run(make())
    with pytest.raises(RuntimeError):
        bell.ring()
