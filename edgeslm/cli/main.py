"""The `edgeslm` command: all verbs in one place, and the only place that catches our errors."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from functools import partial
from types import FrameType
from typing import Annotated

import typer

from edgeslm import __version__
from edgeslm.cli.output import print_error
from edgeslm.cli.verbs import Verbs
from edgeslm.errors import EdgeslmError

_INTERRUPTED = 130
_COMPILING_SECONDS = 0.02

app = typer.Typer(
    name="edgeslm",
    cls=Verbs,
    help="Pack small language models for edge devices, run them there, and measure their cost.",
    epilog="Start with: edgeslm run MODEL.gguf -p 'Hello'   Every command explains itself: --help",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeslm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 done, 1 it failed, 2 what was given is wrong, 130 interrupted.
    """
    _prepare()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except EdgeslmError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("edgeslm: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except OSError as error:
        # Only printing raises it here: whoever read our output has gone, or its disk is full.
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            print(f"error: cannot print: {error.strerror}", file=sys.stderr)
            print("hint: Look at where the output goes.", file=sys.stderr)
        sys.exit(1)


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as if the program had decided to, so that nothing half-written is left.

    What is raised while Python compiles a module may get lost: folding constants, it takes any
    exception but KeyboardInterrupt for an expression that cannot be folded. So that has to end
    first.
    """
    while frame is not None and frame.f_code is _again.__code__:
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        signal.signal(signal.SIGALRM, partial(_again, number))
        signal.setitimer(signal.ITIMER_REAL, _COMPILING_SECONDS)
        return
    sys.exit(128 + number)


def _again(number: int, _alarm: int, _frame: FrameType | None) -> None:
    """The signal once more, to whoever handles it by now."""
    signal.raise_signal(number)


def _prepare() -> None:
    """Text that a stream's encoding lacks is replaced; signals to end leave nothing behind."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
