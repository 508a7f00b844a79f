"""What each weight of a model is multiplied with, seen while llama.cpp computes.

llama.cpp can call back for each operation of its graph. The callback gets a pointer to ggml's
own tensor structure, which no binding declares, so its layout is declared here. Its size is
compared with what the library says before a callback is set, and each weight's shape with the
file's.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.errors import NativeFailure
from edgeslm.llama import native
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

OnInput = Callable[[str, "NDArray[np.float32]"], None]
"""Called with a weight's name and [tokens, n] what it is multiplied with, a view that lasts as
long as the call."""

_SOURCES = 10
_OPERATION_PARAMETERS = 16
_NAME_BYTES = 64
_F32 = 0
_MOST_OPERATIONS = 256
_OBJECT_BYTES = 32
"""`struct ggml_object`, which ggml counts to a tensor's overhead."""


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h."""


_Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * _OPERATION_PARAMETERS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * _SOURCES),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _NAME_BYTES),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
)


class _Watcher:
    """The callback, and what went wrong in it: nothing may be raised through native code."""

    def __init__(self, model: Model, wanted: frozenset[str], on_input: OnInput) -> None:
        self._shapes = {tensor.name: tensor.shape for tensor in model.structure.tensors}
        self._wanted = wanted
        self._on_input = on_input
        self._product = _product_operation()
        self.failure: BaseException | None = None

    def __call__(self, pointer: Any, ask: bool, _data: object) -> bool:
        try:
            return self._seen(pointer.contents, ask=ask)
        except BaseException as error:
            self.failure = error
            return False

    def _seen(self, tensor: Any, *, ask: bool) -> bool:
        if tensor.op != self._product:
            return not ask
        weight = tensor.src[0].contents
        name = weight.name.decode("utf-8", "replace")
        if name not in self._wanted:
            return not ask
        if ask:
            return True
        shape = self._shapes[name]
        if tuple(weight.ne[: len(shape)]) != shape:
            raise NativeFailure(
                f"the loaded ggml lays tensors out differently than expected ({name})",
                hint="Install the llama-cpp-python version that edgeslm asks for.",
            )
        given = tensor.src[1].contents
        width, count = given.ne[0], math.prod(given.ne[1:4])
        if given.type != _F32 or given.nb[0] != 4 or given.nb[1] != 4 * width:
            raise NativeFailure(f"the input of {name} is not what llama.cpp's graphs have so far")
        floats = ctypes.cast(given.data, ctypes.POINTER(ctypes.c_float))
        self._on_input(name, np.ctypeslib.as_array(floats, (count, width)))
        return True


def watch_inputs(
    model: Model,
    sequences: Sequence[Sequence[int]],
    wanted: frozenset[str],
    on_input: OnInput,
    *,
    threads: int = 1,
    outputs: int = 1,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Run sequences through a model, and show what some of its weights are multiplied with.

    Args:
        model: The model, loaded.
        sequences: Token ids, each sequence on its own.
        wanted: Names of the weights to watch.
        on_input: Given each product's input.
        threads: How many to compute with.
        outputs: Of each sequence's last tokens, how many the head is computed for.
        advance: Told of each sequence done.

    Raises:
        NativeFailure: llama.cpp failed, or its structures are not the ones known here.
    """
    _refuse_other_layout()
    watcher = _Watcher(model, wanted, on_input)
    kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Tensor), ctypes.c_bool, ctypes.c_void_p)
    callback = kind(watcher)
    length = max(map(len, sequences))
    options = ContextOptions(
        length=length, batch=length, ubatch=length, threads=threads, outputs=min(outputs, length)
    )
    with Context(model, options, evaluation_callback=callback) as context:
        batch = Batch(length)
        try:
            for sequence in sequences:
                context.forget()
                batch.clear()
                for position, token in enumerate(sequence):
                    wants = position >= len(sequence) - options.outputs
                    batch.add(int(token), position, logits=wants)
                context.decode(batch)
                if watcher.failure is not None:
                    raise watcher.failure
                if advance is not None:
                    advance(1)
        finally:
            batch.close()


@cache
def _refuse_other_layout() -> None:
    """Compare the size of our structure with ggml's, before anything is read through it.

    Raises:
        NativeFailure: they differ.
    """
    overhead = native.ggml().ggml_tensor_overhead
    overhead.restype = ctypes.c_size_t
    if overhead() - _OBJECT_BYTES != ctypes.sizeof(_Tensor):
        raise NativeFailure(
            "the loaded ggml lays tensors out differently than expected",
            hint="Install the llama-cpp-python version that edgeslm asks for.",
        )


@cache
def _product_operation() -> int:
    """Ggml's number for a matrix product."""
    name = native.ggml().ggml_op_name
    name.restype = ctypes.c_char_p
    for number in range(_MOST_OPERATIONS):
        if name(number) == b"MUL_MAT":
            return number
    raise NativeFailure("the loaded ggml has no matrix product by the name known here")
