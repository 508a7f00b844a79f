"""Which build of llama.cpp there is, asked in a child process.

    python -m edgeslm.llama.described

A build for another processor may end the process that loads it. Who asks whether a machine is right
must live to tell.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Sequence

from edgeslm.errors import NativeFailure
from edgeslm.llama.native import BuildInfo, build_info, child_command, child_environment

_SECONDS = 60
_HINT = "Reinstall llama-cpp-python for this machine; on Debian it needs libgomp1."


def describe_build(command: Sequence[str] | None = None) -> BuildInfo:
    """The build that this Python would load.

    Args:
        command: What describes it as JSON on stdout; default: this module in a child process.

    Raises:
        NativeFailure: it cannot be loaded; the message has why.
    """
    try:
        done = subprocess.run(
            command or child_command(__name__),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise NativeFailure(
            f"llama.cpp did not load within {_SECONDS} seconds", hint=_HINT
        ) from error
    if done.returncode < 0:
        raise NativeFailure(
            f"loading llama.cpp ended the process with {_signal_name(-done.returncode)}",
            hint="It was built for another processor: reinstall llama-cpp-python on this machine.",
        )
    try:
        answer = json.loads(done.stdout)
        if "refused" in answer:
            raise NativeFailure(str(answer["refused"]), hint=answer["hint"])
        commit = answer["commit"]
        return BuildInfo(
            str(answer["binding"]),
            tuple(map(str, answer["features"])),
            None if commit is None else str(commit),
        )
    except (ValueError, KeyError, TypeError) as error:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise NativeFailure(words[-1] if words else "it says nothing", hint=_HINT) from error


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name}, an instruction it does not know" if name == "SIGILL" else name


def _main() -> int:
    """The child."""
    try:
        build = build_info()
    except NativeFailure as error:
        print(json.dumps({"refused": error.message, "hint": error.hint}))
        return 1
    print(json.dumps(dataclasses.asdict(build)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
