"""Quantize to a size: each tensor gets the type that serves the whole file best.

The budget is a number of bytes. `--bits` counts the tensors' bytes over all parameters, as
`edgeslm inspect` does; `--size` counts the whole file, header and padding included. The
result is never larger than asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, TensorType, padded
from edgeslm.llama.quantizer import QuantizeOptions, quantizable_tensors, quantize_model
from edgeslm.packager.quantize.allocation import Options, allocate
from edgeslm.packager.quantize.result import FLOAT_TYPES, QuantizeResult, count_elements, describe
from edgeslm.packager.quantize.scores import score_tensors, types_for
from edgeslm.units import format_bytes

_LABELS = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""File types for the tensor types whose name they do not share."""
_ADDED_KEYS = ("general.quantization_version", "general.file_type")
_NUMBER_ENTRY_BYTES = 8 + 4 + 4
"""A metadata entry beside its key: length of the key, type, a 32-bit value."""
_NEARLY_ALL = 0.99


@dataclass(frozen=True)
class Budget:
    """A limit on what is counted: the tensors' bytes alone, or the whole file's."""

    requested: str
    bytes: int
    whole_file: bool

    def tensor_bytes(self, count: int) -> int:
        """What a tensor of `count` bytes takes."""
        return padded(count, DEFAULT_ALIGNMENT) if self.whole_file else count

    def overhead_bytes(self, header: Header) -> int:
        """What the file takes beside its tensors, or a little less than that."""
        if not self.whole_file:
            return 0
        added = [key for key in _ADDED_KEYS if key not in header.metadata]
        entries = sum(_NUMBER_ENTRY_BYTES + len(key) for key in added)
        return padded(header.data_offset + entries, DEFAULT_ALIGNMENT)


def bits_budget(header: Header, bits: float) -> Budget:
    """So many bits per weight over all parameters."""
    total = math.floor(bits * count_elements(header) / 8)
    return Budget(f"{bits:g} bits per weight", total, whole_file=False)


def size_budget(size_bytes: int) -> Budget:
    """A whole file of at most so many bytes."""
    return Budget(format_bytes(size_bytes), size_bytes, whole_file=True)


def quantize_mix(
    header: Header, output: Path, budget: Budget, threads: int | None
) -> QuantizeResult:
    """Write the model of `header` to `output` with the best mix of types under `budget`.

    Raises:
        InvalidOption: no mix is that small; the message names the smallest.
        OutputFailure: the output cannot be written.
        NativeFailure: llama.cpp refused or crashed, or did not write what was planned.
    """
    _refuse_other_alignment(header)
    names = quantizable_tensors(header.path)
    fixed = _fixed_bytes(header, names, budget)
    _refuse_too_small(header, names, fixed, budget)
    options = _counted(score_tensors(header, names, threads), budget)
    allocation = allocate(options, budget.bytes - fixed)
    plan = {
        item.tensor: candidate.type
        for item, candidate in zip(options, allocation.chosen, strict=True)
    }
    written = quantize_model(header, output, _quantize_options(header, plan, threads)).header
    warnings = []
    if fixed + allocation.bytes < budget.bytes * _NEARLY_ALL:
        warnings.append(
            f"the file is smaller than {budget.requested}: no larger mix would lose less"
        )
    return describe(header, written, requested=budget.requested, warnings=warnings)


def _refuse_other_alignment(header: Header) -> None:
    if header.alignment != DEFAULT_ALIGNMENT:
        raise Unsupported(
            f"{header.path}: {ALIGNMENT_KEY} is {header.alignment}; llama.cpp's quantizer writes "
            f"only {DEFAULT_ALIGNMENT}",
            hint="Convert the checkpoint again.",
        )


def _fixed_bytes(header: Header, names: Collection[str], budget: Budget) -> int:
    """What is not up for choice: header, norms and whatever else llama.cpp leaves alone."""
    tensors = (tensor for tensor in header.tensors if tensor.name not in names)
    return budget.overhead_bytes(header) + sum(
        budget.tensor_bytes(entry.bytes) for entry in tensors
    )


def _refuse_too_small(header: Header, names: Collection[str], fixed: int, budget: Budget) -> None:
    least = fixed + sum(
        min(budget.tensor_bytes(kind.bytes_for(tensor.shape)) for kind in types_for(tensor))
        for tensor in header.tensors
        if tensor.name in names
    )
    if budget.bytes >= least:
        return
    bits = f"{math.ceil(least * 8 / count_elements(header) * 1000) / 1000:g}"
    smallest, option = (
        (f"{least} bytes", f"--size {least}")
        if budget.whole_file
        else (f"{bits} bits per weight", f"--bits {bits}")
    )
    raise InvalidOption(
        f"{budget.requested} is too small for {header.path}: its tensors' types and widths allow "
        f"no less than {smallest}",
        hint=f"Ask for {option} or more, or take a smaller model.",
    )


def _counted(options: Sequence[Options], budget: Budget) -> list[Options]:
    """The options with their bytes as the budget counts them."""
    return [
        dataclasses.replace(
            item,
            candidates=tuple(
                dataclasses.replace(entry, bytes=budget.tensor_bytes(entry.bytes))
                for entry in item.candidates
            ),
        )
        for item in options
    ]


def _quantize_options(
    header: Header, plan: Mapping[str, TensorType], threads: int | None
) -> QuantizeOptions:
    """The plan in llama.cpp's terms: a type for the file, and each tensor's own.

    llama.cpp heeds overrides only under a quantized file type. A plan without quantized
    types has one float type, that of the source or F16, which needs none.
    """
    elements: Counter[str] = Counter()
    for tensor in header.tensors:
        if tensor.name in plan:
            elements[plan[tensor.name].name] += tensor.elements
    ranked = [name for name, _ in elements.most_common()]
    label = next((name for name in ranked if name not in FLOAT_TYPES), ranked[0])
    return QuantizeOptions(
        _LABELS.get(label, label),
        threads=threads,
        allow_requantize=True,
        overrides=tuple(plan.items()),
    )
