"""The `edgeslm` command: all verbs in one place, and the only place that catches our errors."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from edgeslm import __version__
from edgeslm.cli import look, make, measure, talk, targets
from edgeslm.errors import EdgeslmError

_INTERRUPTED = 130

app = typer.Typer(
    name="edgeslm",
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


def _help(command: Callable[..., None]) -> str:
    """The command's docstring, with the lines of its examples kept apart."""
    return (inspect.getdoc(command) or "").replace("Examples:", "\b\nExamples:")


for group in (make, look, talk, measure):
    for command in group.COMMANDS:
        app.command(help=_help(command))(command)
app.add_typer(targets.app, name="targets")


def main() -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 done, 1 it failed, 2 what was given is wrong, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except EdgeslmError as error:
        _report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("edgeslm: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _terminate(number: int, _frame: object) -> NoReturn:
    """End as if the program had decided to, so that nothing half-written is left."""
    sys.exit(128 + number)


def _report(error: EdgeslmError) -> None:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
