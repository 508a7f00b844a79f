"""A low-rank adapter beside a model: a specialist that costs the memory of its small file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.files import sha256
from edgeslm.gguf.adapters import read_adapter
from edgeslm.llama import native, pages
from edgeslm.llama.closing import Closing
from edgeslm.llama.model import Model
from edgeslm.signals import signals_deferred

_MOST_STRENGTH = 100.0


class Adapter(Closing):
    """An open adapter. Close it before its model.

    Args:
        model: What it changes, in those computations that ask for it.
        path: A GGUF file.
        strength: What its effect is multiplied with; 1 is as it was trained.

    Raises:
        InvalidGGUF, Unsupported: the file is malformed, or for another model.
        NativeFailure: llama.cpp refused it.
    """

    def __init__(self, model: Model, path: Path, strength: float = 1.0) -> None:
        if not -_MOST_STRENGTH <= strength <= _MOST_STRENGTH:
            raise InvalidOption(
                f"a strength of {strength}", hint=f"At most {_MOST_STRENGTH:g}; 1 is usual."
            )
        read_adapter(path, model.structure)
        pages.keep_large_apart()
        self.path = path
        self.strength = strength
        self.digest = f"{sha256(path)} {strength!r}"
        """Tells what it computes from what others compute."""
        with signals_deferred(), native.captured_log() as lines:
            self.handle: Any = native.library().llama_adapter_lora_init(
                model.handle, os.fsencode(path)
            )
        if not self.handle:
            raise NativeFailure(
                f"{path}: llama.cpp cannot load it: {native.reason(lines, 'no reason given')}",
                hint="Convert the adapter again, for this very model.",
            )

    def close(self) -> None:
        """Free it; no context uses it any more."""
        if self.handle is not None:
            native.library().llama_adapter_lora_free(self.handle)
            self.handle = None
