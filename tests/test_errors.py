from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgeslm import errors
from edgeslm.errors import EdgeslmError, Failure, NotFound, OutputFailure, UserError


def _tree(base: type[EdgeslmError]) -> list[type[EdgeslmError]]:
    return [base, *(found for child in base.__subclasses__() for found in _tree(child))]


def test_the_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    for kind in _tree(EdgeslmError):
        assert kind.__name__ in errors.__doc__


def test_exit_codes_tell_the_users_mistakes_from_failures() -> None:
    for kind in _tree(EdgeslmError)[1:]:
        assert kind("what").exit_code == (2 if issubclass(kind, UserError) else 1)
        assert issubclass(kind, (UserError, Failure))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, NotFound),
        (errno.EISDIR, UserError),
        (errno.EACCES, UserError),
        (errno.EIO, Failure),
        (errno.ENAMETOOLONG, NotFound),
        (errno.ENOTDIR, NotFound),
    ],
)
def test_reading_translates_what_the_system_says(number: int, kind: type[EdgeslmError]) -> None:
    with pytest.raises(kind) as caught, errors.reading(Path("model.gguf")):
        raise OSError(number, "it says")
    assert "model.gguf" in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "may write"),
        (errno.ENOENT, "Create the folder"),
        (errno.EIO, "another output"),
    ],
)
def test_writing_says_what_to_do(number: int, hint: str) -> None:
    with pytest.raises(OutputFailure) as caught, errors.writing(Path("out.gguf")):
        raise OSError(number, "it says")
    assert "cannot write out.gguf: it says" in caught.value.message
    assert hint in (caught.value.hint or "")
