"""Commands that run as processes of their own, so that a crash ends one of them and not all.

A job also ends when this process does, however that ends: a small shell beside it waits at a pipe
that only this process holds open. Over ssh the same shell runs on the other machine.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_GRACE_SECONDS = 15.0
_LONGEST_WORDS = 500
_OUT_OF_MEMORY = 9
_WATCH = """
exec 3<&0
"$@" </dev/null &
job=$!
(
    exec >/dev/null 2>&1
    cat <&3
    kill $job
    sleep 10
    kill -9 $job
) &
watch=$!
wait $job
code=$?
kill $watch 2>/dev/null
exit $code
"""


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        code: As a shell tells it: 128 and the signal's number where a signal ended it.
        output: What it printed.
        words: What it said on stderr.
    """

    code: int
    output: str
    words: str
    timed_out: bool = False


@dataclass(frozen=True)
class Problem:
    """Why a job gave nothing, in its own words where it had any."""

    reason: str
    hint: str | None
    code: int | None


def watched(command: Sequence[str]) -> list[str]:
    """`command` ended as soon as nobody holds its standard input open any more."""
    return ["sh", "-c", _WATCH, "edgeslm-job", *command]


def watched_words(command: str) -> str:
    """The same as words for a shell, from words for a shell."""
    return f"sh -c {shlex.quote(_WATCH)} edgeslm-job {command}"


def run(command: Sequence[str], timeout_seconds: float | None = None) -> Ended:
    """Run what `watched` gave to its end, or until the time is over.

    Whatever ends this function early ends the job first.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, words = _until_done(process, timeout_seconds)
            return Ended(_as_a_shell(process.returncode), output, words)
        except subprocess.TimeoutExpired:
            return Ended(_end(process), "", "", timed_out=True)
        except BaseException:
            _end(process)
            raise


def problem(ended: Ended, timeout_seconds: float | None = None) -> Problem | None:
    """What went wrong; None if nothing did."""
    if ended.timed_out:
        return Problem(
            f"not done after {timeout_seconds:g} seconds",
            "Raise timeout_seconds, or shorten the runs.",
            None,
        )
    if ended.code == 0:
        return None
    lines = [line.strip() for line in ended.words.splitlines() if line.strip()]
    said = {name: text for name, _, text in (line.partition(": ") for line in lines)}
    if "error" in said:
        return Problem(said["error"][:_LONGEST_WORDS], said.get("hint"), ended.code)
    number = ended.code - 128
    if number == _OUT_OF_MEMORY:
        return Problem(
            "killed (signal 9), most likely by the kernel for want of memory",
            "Choose a smaller model, type or context.",
            ended.code,
        )
    if 0 < number < signal.NSIG:
        return Problem(f"ended by signal {number}", None, ended.code)
    last = lines[-1] if lines else f"exit code {ended.code}"
    return Problem(last[:_LONGEST_WORDS], None, ended.code)


def _until_done(process: subprocess.Popen[str], timeout_seconds: float | None) -> tuple[str, str]:
    """What it printed and said; its input stays open until it has ended."""
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    held, process.stdin = process.stdin, None
    try:
        return process.communicate(timeout=timeout_seconds)
    finally:
        process.stdin = held


def _end(process: subprocess.Popen[str]) -> int:
    """Let it end in good order, then make it end."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return _as_a_shell(process.returncode)


def _as_a_shell(code: int) -> int:
    return 128 - code if code < 0 else code
