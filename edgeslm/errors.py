"""The one exception tree. Every error carries a message, a hint and an exit code.

    EdgeslmError                     exit 1
    ├── UserError                    exit 2: what was asked for, or given, is wrong
    │   ├── InvalidOption            an option's value is out of range or malformed
    │   ├── NotFound                 a file, model or name that does not exist
    │   ├── InvalidGGUF              not a GGUF file, or one that contradicts itself
    │   ├── InvalidCheckpoint        a directory that is no Hugging Face checkpoint
    │   ├── InvalidBundle            a bundle that is incomplete or was changed
    │   ├── Untrusted                a bundle that nobody whom we trust has signed
    │   ├── InvalidImage             a disk image whose partitions or file systems are not usable
    │   ├── RefusedDevice            a disk that must not be written over
    │   ├── InvalidTarget            a target file that breaks the schema
    │   ├── InvalidRecipe            a recipe that breaks the form, or does not fit the model
    │   ├── PromptTooLong            it does not fit into the context
    │   ├── Exhausted                a chat template used up what it was allowed
    │   └── Unsupported              well formed, but not something edgeslm can do
    └── Failure                      exit 1: the request was fine and carrying it out failed
        ├── NativeFailure            llama.cpp refused or crashed; carries its own words
        ├── NotEnoughMemory          the model does not fit into what is free
        ├── Busy                     everything is in use; later it may work
        ├── OutputFailure            the result could not be written
        ├── Unhealthy                a new version did not pass its check; the old one stays
        ├── HostFailure              a machine that is used over ssh
        └── MeasurementFailure       a figure could not be measured

The command line's entry point and the HTTP server's catch these, and what goes on without a part of
its work, as a bench does with the next cell; they catch nothing else: a bug keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EdgeslmError(Exception):
    """Base of every error edgeslm raises on purpose.

    Args:
        message: One line that names the cause and the culprit.
        hint: One line that says what to do next, or None where nothing helps.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(EdgeslmError):
    """What was asked for or given is wrong; trying again unchanged cannot help."""

    exit_code = 2


class InvalidOption(UserError):
    """An option's value is out of range or malformed."""


class NotFound(UserError):
    """A file, model or name that does not exist."""


class InvalidGGUF(UserError):
    """Not a GGUF file, or one whose parts contradict each other."""


class InvalidCheckpoint(UserError):
    """A directory that is no (complete) Hugging Face checkpoint."""


class InvalidBundle(UserError):
    """A bundle that is incomplete or was changed after it was written."""


class Untrusted(UserError):
    """A model that nobody whom we trust has signed, where only signed ones are accepted."""


class InvalidImage(UserError):
    """A disk image whose partitions or file systems are damaged, or not what is needed."""


class RefusedDevice(UserError):
    """A disk that must not be written over: it is in use, or nobody meant it."""


class InvalidTarget(UserError):
    """A target file that breaks the schema."""


class InvalidRecipe(UserError):
    """A recipe that breaks the form, or does not fit the model."""


class PromptTooLong(UserError):
    """A prompt that does not fit into the context."""


class Exhausted(UserError):
    """A chat template used up what it was allowed."""

    def __init__(self, what: str = "works without end") -> None:
        super().__init__(
            f"the chat template {what}",
            hint="Use another one with --template, or leave it out with --raw.",
        )


class Unsupported(UserError):
    """Well formed, but not something edgeslm can do."""


class Failure(EdgeslmError):
    """The request was fine; carrying it out failed."""


class NativeFailure(Failure):
    """llama.cpp refused or crashed; the message carries its own words."""


class NotEnoughMemory(Failure):
    """The model does not fit into the memory that is free, and would thrash if it were loaded."""


class Busy(Failure):
    """Everything is in use; later it may work."""


class OutputFailure(Failure):
    """The result could not be written."""


class Unhealthy(Failure):
    """A new version did not pass its check; the old one stays."""


class HostFailure(Failure):
    """A machine that is used over ssh cannot be reached, or did not do what it was asked."""


class MeasurementFailure(Failure):
    """A figure could not be measured."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is read into the matching error of this tree."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="Check the path.") from error
    except IsADirectoryError as error:
        raise UserError(
            f"{path}: is a directory, a file was expected", hint="Name the file itself."
        ) from error
    except PermissionError as error:
        raise UserError(f"{path}: permission denied", hint="Check who owns the file.") from error
    except OSError as error:
        reason = f"{path}: {error.strerror or error}"
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR):
            raise NotFound(reason, hint="Check the path.") from error
        raise Failure(reason, hint="Check the disk.") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is written into an OutputFailure with a hint."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputFailure(f"cannot write {path}: {reason}", hint=_writing_hint(error)) from error


def _writing_hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space or choose another disk; nothing half-written was left behind."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Choose a folder you may write to."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "Create the folder first, or choose another one."
    return "Choose another output path."
