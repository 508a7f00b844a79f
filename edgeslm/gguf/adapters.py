"""Low-rank adapters (LoRA): what llama.cpp takes for granted about their files.

Beside a matrix W of the model, an adapter has A and B, and W x becomes W x + s B A x with the
strength s = alpha / rank. Source: `src/llama-adapter.cpp` of the llama.cpp in llama-cpp-python
0.3.36, which ends the process on metadata of another type than it expects.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NoReturn

from edgeslm.errors import InvalidGGUF, Unsupported
from edgeslm.gguf.reader import Header, TensorInfo, read_header
from edgeslm.gguf.types import ValueType, printable

_A, _B = ".lora_a", ".lora_b"
_NORM = "_norm.weight"
"""llama.cpp leaves these out."""
_EMBEDDING = "token_embd.weight"
_TYPES = ("F32", "F16", "BF16", "Q8_0")
_MOST_RANK = 4096
_HINT = "Convert the adapter again, for this very model."


def read_adapter(path: Path, base: Header) -> Header:
    """The header of an adapter for the model of `base`.

    Raises:
        InvalidGGUF: no sound adapter, or one for another model.
        Unsupported: an adapter of another kind.
        NotFound: there is no such file.
    """
    header = read_header(path)
    _check_metadata(header, base)
    tensors = {tensor.name: tensor for tensor in header.tensors if not tensor.name.endswith(_NORM)}
    if not tensors:
        _fail(header, "it changes no tensor")
    of_base = {tensor.name: tensor for tensor in base.tensors}
    for name, tensor in tensors.items():
        stem, ending = name[: -len(_A)], name[-len(_A) :]
        if ending not in (_A, _B):
            _fail(header, f"tensor {printable(name)} is neither an A nor a B")
        other = tensors.get(stem + (_B if ending == _A else _A))
        if other is None:
            _fail(header, f"tensor {printable(name)} has no counterpart")
        if stem == _EMBEDDING and "output.weight" not in of_base:
            _fail(header, "it changes an embedding that is the head too")
        if stem not in of_base:
            _fail(header, f"the model has no tensor {printable(stem)}")
        if tensor.type.name not in _TYPES:
            _fail(header, f"tensor {printable(name)} is of type {tensor.type.name}")
        if ending == _A:
            _check_pair(header, of_base[stem], tensor, other)
    return header


def _check_metadata(header: Header, base: Header) -> None:
    expected = {"general.type": "adapter", "adapter.type": "lora"}
    for key, wanted in expected.items():
        kind, _ = header.metadata_types.get(key, (None, None))
        if kind is not ValueType.STRING or header.get(key) != wanted:
            said = printable(str(header.get(key)))
            _fail(header, f"no low-rank adapter: {key} is {said}, not {wanted}")
    if header.architecture is None or header.architecture != base.architecture:
        _fail(header, f"an adapter for {header.architecture}; the model is {base.architecture}")
    kind, _ = header.metadata_types.get("adapter.lora.alpha", (ValueType.FLOAT32, None))
    alpha = header.get("adapter.lora.alpha", 0.0)
    if kind is not ValueType.FLOAT32 or not math.isfinite(alpha):
        _fail(header, "adapter.lora.alpha is no number")
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise Unsupported(
            f"{header.path}: an adapter that waits for certain tokens (aLoRA)",
            hint="Only plain LoRA adapters are understood.",
        )


def _check_pair(header: Header, base: TensorInfo, a: TensorInfo, b: TensorInfo) -> None:
    """Return if B A has the shape of the matrix it is added to."""
    name = printable(base.name)
    if not len(base.shape) == len(a.shape) == len(b.shape) or len(base.shape) not in (2, 3):
        _fail(header, f"{name} has {len(base.shape)} dimensions, its adapter others")
    rank = b.shape[0]
    if base.name == _EMBEDDING:  # rows of it are looked up: A lies the other way round
        wanted = ((rank, base.shape[1]), (rank, base.shape[0]))
    else:
        wanted = ((base.shape[0], rank), (rank, base.shape[1]))
    if (a.shape[:2], b.shape[:2]) != wanted or not (a.shape[2:] == b.shape[2:] == base.shape[2:]):
        _fail(header, f"it does not fit {name}: {a.shape} and {b.shape} beside {base.shape}")
    if rank > _MOST_RANK:
        _fail(header, f"{name} has rank {rank}")


def _fail(header: Header, what: str) -> NoReturn:
    raise InvalidGGUF(f"{header.path}: {what}", hint=_HINT)
