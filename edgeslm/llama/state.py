"""What a context holds of one sequence, as bytes, and back.

The bytes are llama.cpp's own: cells, positions, keys and values. They fit a context of the same
model, build of llama.cpp and cache type, whatever its numbers of sequences and cells.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from edgeslm.errors import NativeFailure
from edgeslm.llama import native
from edgeslm.llama.context import Context
from edgeslm.llama.state_layout import (
    CELL_WORDS,
    CELL_WORDS_OF_SEVERAL_POSITIONS,
    Layout,
    layout_of,
    streams_of,
)

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
    """Have the empty sequence hold what `copy_state` wrote, in this context or another.

    Where that one has another number of sequences, a copy of the bytes is made for a moment.

    Returns:
        False where it is the state of another model or cache, or there is no room for it; the
        sequence is empty then.
    """
    streams = context.options.sequences
    if _has_streams(context) and streams_of(data) != streams:
        layout = _layout(context, data)
        if layout is None:
            return False
        target = memoryview(mmap.mmap(-1, layout.bytes_for(streams)))
        layout.write(data, target, streams)
        data = target
    return _restore(context, sequence, data)


def can_take_beginning(context: Context, held: int, count: int) -> bool:
    """Whether a sequence has the first `count` of its `held` tokens for `take_beginning`.

    Not out of recurrent states, which know only the last token; nor from before a window that has
    moved on.
    """
    window = context.model.sliding_window
    return not context.model.recurrent and (not window or held - window <= max(0, count - window))


def take_beginning(context: Context, source: int, count: int) -> memoryview | None:
    """The state of the first `count` tokens of a sequence, for `restore_state` in this context.

    It takes as much memory as the state of all its tokens.

    Returns:
        None where not all of the tokens are there, more than keys and values belongs to them, or
        their state is not as we know it.

    Raises:
        NativeFailure: llama.cpp could not write the state.
    """
    if context.model.recurrent:
        return None
    streams = context.options.sequences
    # Pages of its own, which go back at once; `Context.decode` never sees it.
    data = memoryview(mmap.mmap(-1, state_bytes(context, source)))
    copy_state(context, source, data)
    layout = _layout(context, data)
    if layout is None or not layout.holds(count, context.model.sliding_window):
        return None
    return data[: layout.write(data, data, streams, count)]


def _restore(context: Context, sequence: int, data: memoryview) -> bool:
    with native.captured_log():
        read = native.library().llama_state_seq_set_data(
            context.handle, _pointer(data), len(data), sequence
        )
    if read == len(data):
        return True
    context.forget(sequence=sequence)
    return False


def _has_streams(context: Context) -> bool:
    """Whether there are keys and values at all, beside states."""
    return not native.library().llama_model_is_recurrent(context.model.handle)


def _layout(context: Context, data: memoryview) -> Layout | None:
    model = context.model
    compressed = model.hyper("attention.key_length_mla") is not None
    return layout_of(
        data,
        values=not compressed,
        several=not model.recurrent,
        cell_words=CELL_WORDS_OF_SEVERAL_POSITIONS if model.several_positions else CELL_WORDS,
    )


def _pointer(view: memoryview) -> Any:
    return np.frombuffer(view, dtype=np.uint8).ctypes.data_as(_BYTES)
