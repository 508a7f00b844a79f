"""Commands in processes of their own: how they end, and that they end with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgeslm.profiling import jobs

SLEEPS = (sys.executable, "-c", "import time; time.sleep(60)")


def is_running(number: int) -> bool:
    with suppress(OSError):
        status = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        return status != "Z"
    return False


def wait_until_ended(number: int, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while is_running(number):
        assert time.monotonic() < until, f"{number} still runs"
        time.sleep(0.05)


def number_in(path: Path, seconds: float = 20) -> int:
    until = time.monotonic() + seconds
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(path.read_text())


def test_what_a_command_printed_and_how_it_ended() -> None:
    code = "import sys; print('out'); print('words', file=sys.stderr); sys.exit(3)"
    ended = jobs.run(jobs.watched([sys.executable, "-c", code]), 30)
    assert ended == jobs.Ended(3, "out\n", "words\n")
    assert jobs.run(jobs.watched(["echo", "a  b", "$HOME"])).output == "a  b $HOME\n"


def test_more_than_a_pipe_holds() -> None:
    ended = jobs.run(jobs.watched([sys.executable, "-c", "print('x' * 1_000_000)"]))
    assert len(ended.output) == 1_000_001


def test_a_command_reads_nothing_of_ours() -> None:
    assert jobs.run(jobs.watched(["cat"]), 10).code == 0


def test_too_long_is_ended() -> None:
    began = time.monotonic()
    ended = jobs.run(jobs.watched(SLEEPS), 0.3)
    assert ended.timed_out
    assert time.monotonic() - began < 12
    found = jobs.problem(ended, 0.3)
    assert found is not None
    assert "0.3 seconds" in found.reason


def test_a_command_that_will_not_end_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_GRACE_SECONDS", 0.5)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(1, flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    assert jobs.run(jobs.watched([sys.executable, "-c", deaf]), 1).timed_out
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("code", "words", "reason", "hint"),
    [
        (1, "warning: x\nerror: no model\nhint: Name one.\n", "no model", "Name one."),
        (137, "", "killed (signal 9)", "smaller"),
        (139, "something\n", "signal 11", None),
        (134, "", "signal 6", None),
        (1, "Traceback\nKeyError: 3\n", "KeyError: 3", None),
        (3, "", "exit code 3", None),
    ],
)
def test_why_it_failed(code: int, words: str, reason: str, hint: str | None) -> None:
    found = jobs.problem(jobs.Ended(code, "", words))
    assert found is not None
    assert reason in found.reason
    assert found.code == code
    assert (found.hint is None) if hint is None else (hint in (found.hint or ""))


def test_success_is_no_problem() -> None:
    assert jobs.problem(jobs.Ended(0, "", "error: not really\n")) is None


def test_a_crash_tells_its_signal() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert jobs.run(jobs.watched([sys.executable, "-c", code])).code == 128 + signal.SIGSEGV


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_job_ends_with_who_started_it(number: signal.Signals, tmp_path: Path) -> None:
    note = tmp_path / "number"
    job = f"import os, time; print(os.getpid(), file=open({str(note)!r}, 'w')); time.sleep(60)"
    starts = (
        "import sys; from edgeslm.profiling import jobs;"
        f"jobs.run(jobs.watched([sys.executable, '-c', {job!r}]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", starts], stderr=subprocess.DEVNULL)
    child = number_in(note)
    assert is_running(child)
    os.kill(parent.pid, number)
    parent.wait(20)
    wait_until_ended(child)
