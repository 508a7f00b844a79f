"""A compiled llama.cpp may say for which processors it is, in a file beside its libraries.

`edgeslm wheels` writes it. It is read before the libraries are: on another processor the first
instruction that this one lacks would end the process without a word.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgeslm import processor
from edgeslm.errors import NativeFailure
from edgeslm.records import BUILD_SCHEMA, from_json

NAME = "edgeslm-build.json"


@dataclass(frozen=True)
class BuildNote:
    """What was compiled for: the instruction set, and the features it needs, as Linux names them.

    Attributes:
        architecture: As Linux names it.
        march: As the compiler takes it.
        features: What a processor must be able to do.
    """

    architecture: str
    march: str
    features: tuple[str, ...]


def read_note(libraries: Path) -> BuildNote | None:
    """The note in the folder of the libraries; None where there is none, as in builds by others.

    Raises:
        NativeFailure: it cannot be read.
    """
    path = libraries / NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("schema") != BUILD_SCHEMA:
            raise ValueError(f"not a document of {BUILD_SCHEMA}")
        return from_json(BuildNote, value)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise NativeFailure(f"{path}: {error}", hint="Install the runtime again.") from error


def ensure_suited(libraries: Path) -> None:
    """Return if this processor can run what lies in a folder, as far as anybody says.

    Raises:
        NativeFailure: it cannot; the message names what it lacks.
    """
    note = read_note(libraries)
    able = processor.features()
    lacking = [each for each in note.features if each not in able] if note and able else []
    if note is not None and lacking:
        raise NativeFailure(
            f"llama.cpp was compiled for {note.march}, and this processor has no "
            f"{', '.join(lacking)}",
            hint="Make a runtime for this board: edgeslm wheels --target BOARD",
        )
