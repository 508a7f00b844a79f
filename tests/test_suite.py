"""What the tests themselves rely on, however they are started."""

from __future__ import annotations

import signal
import subprocess
import sys

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def test_no_signal_is_ignored() -> None:
    assert signal.SIG_IGN not in {signal.getsignal(number) for number in SIGNALS}


def test_nohup_or_a_shell_that_ignores_signals_makes_no_difference() -> None:
    test = f"{__file__}::{test_no_signal_is_ignored.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", test]
    ignoring = ["sh", "-c", "trap '' INT HUP TERM; exec \"$@\"", "sh", *command]
    done = subprocess.run(ignoring, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
