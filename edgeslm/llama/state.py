"""What a context holds of one sequence, as bytes, and back.

The bytes are llama.cpp's own: cells, positions, keys and values. They fit a context of the same
model, build of llama.cpp and cache type; the number of slots and cells may differ.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from edgeslm.errors import NativeFailure
from edgeslm.llama import native
from edgeslm.llama.context import Context

_BYTES = ctypes.POINTER(ctypes.c_uint8)


def state_bytes(context: Context, sequence: int) -> int:
    """How many bytes `copy_state` writes."""
    return int(native.library().llama_state_seq_get_size(context.handle, sequence))


def copy_state(context: Context, sequence: int, target: memoryview) -> None:
    """Write the state of a sequence into `target`, which is exactly as long as it.

    Raises:
        NativeFailure: llama.cpp could not.
    """
    written = native.library().llama_state_seq_get_data(
        context.handle, _pointer(target), len(target), sequence
    )
    if written != len(target):
        raise NativeFailure(
            "llama.cpp cannot write the state of its cache", hint="Turn the prompt cache off."
        )


def restore_state(context: Context, sequence: int, data: memoryview) -> bool:
    """Have the empty sequence hold what `copy_state` wrote.

    Returns:
        False where it is the state of another model or cache, or there is no room for it; the
        sequence is empty then.
    """
    with native.captured_log():
        read = native.library().llama_state_seq_set_data(
            context.handle, _pointer(data), len(data), sequence
        )
    if read == len(data):
        return True
    context.forget(sequence=sequence)
    return False


def _pointer(view: memoryview) -> Any:
    return np.frombuffer(view, dtype=np.uint8).ctypes.data_as(_BYTES)
