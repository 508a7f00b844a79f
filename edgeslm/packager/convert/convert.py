"""A Hugging Face checkpoint directory to a GGUF file, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidCheckpoint, InvalidOption, Unsupported, UserError, reading
from edgeslm.gguf.types import Field, tensor_type
from edgeslm.gguf.validation import read_model
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.packager.convert.checkpoint import FLOAT_TYPES, Checkpoint, open_checkpoint
from edgeslm.packager.convert.encoding import encode, to_float32
from edgeslm.packager.convert.families import family_for
from edgeslm.packager.convert.families.base import Family, Shape, Sizes
from edgeslm.packager.convert.metadata import general_fields
from edgeslm.packager.convert.safetensors import StoredTensor
from edgeslm.packager.convert.special import chat_templates
from edgeslm.packager.convert.tokenizer import read_vocabulary
from edgeslm.packager.convert.values import Config
from edgeslm.progress import bar

_NAMES_SHOWN = 3


@dataclass(frozen=True)
class ConvertResult:
    """The file that was written."""

    path: Path
    architecture: str
    parameters: int
    file_bytes: int
    type: str


@dataclass(frozen=True)
class _Planned:
    """A tensor of the file, under its canonical name, and where it comes from."""

    name: str
    spec: TensorSpec
    source: StoredTensor | NDArray[np.float32]


def convert(checkpoint_dir: Path, output: Path, *, type: str | None = None) -> ConvertResult:  # noqa: A002 - the option's name
    """Write the model in `checkpoint_dir` to `output` as GGUF.

    Memory stays within a small multiple of the largest tensor.

    Args:
        checkpoint_dir: config.json, weights as safetensors, tokenizer.json.
        output: The file; it appears when it is complete.
        type: What matrices are stored in; None keeps the type of the checkpoint. Vectors,
            the norms among them, are always F32.

    Raises:
        InvalidOption: a `type` of another kind, or an output that is one of the sources.
        NotFound: there is no such directory.
        InvalidCheckpoint: it is incomplete, damaged, or contradicts itself.
        Unsupported: a model, option or tokenizer that llama.cpp cannot run faithfully.
        OutputFailure: `output` cannot be written.
    """
    if type is not None and type not in FLOAT_TYPES:
        raise InvalidOption(
            f"conversion does not write {type}",
            hint=f"One of {', '.join(FLOAT_TYPES)}; other types come with: edgeslm quantize",
        )
    checkpoint = open_checkpoint(checkpoint_dir)
    _refuse_own_file(checkpoint_dir, output)
    family = family_for(checkpoint.architecture)
    config = family.text_config(checkpoint.config)
    family.check(config)
    sizes = Sizes.of(config)
    stored = _matched(checkpoint, family, config)
    type_name = type or checkpoint.dtype
    plan = _plan(stored, family, config, type_name)
    parameters = sum(tensor.elements for tensor in stored.values())
    fields: list[Field] = [
        *general_fields(checkpoint_dir, family.arch, parameters, type_name),
        *family.fields(config),
        *read_vocabulary(checkpoint, sizes.vocabulary).fields(),
        *chat_templates(checkpoint),
    ]

    def read(index: int) -> NDArray[Any]:
        return _data(plan[index], family, sizes)

    with bar("converting", sum(item.spec.bytes for item in plan), unit="bytes") as advance:
        specs = [item.spec for item in plan]
        write_gguf(output, fields, specs, read, advance=advance, check=_checker(checkpoint))
    return ConvertResult(output, family.arch, parameters, output.stat().st_size, type_name)


def _refuse_own_file(directory: Path, output: Path) -> None:
    """Files of GGUF may be replaced; they are no part of the checkpoint."""
    with reading(output):
        if not output.exists():
            return
        sources = [path for path in directory.iterdir() if path.suffix != ".gguf"]
        if any(path.exists() and path.samefile(output) for path in sources):
            raise InvalidOption(
                f"{output}: the output is a file of the checkpoint itself",
                hint="Give the output another name.",
            )


def _checker(checkpoint: Checkpoint) -> Callable[[Path], None]:
    """What looks at the file before it appears, as every reader of it will."""

    def check(path: Path) -> None:
        try:
            read_model(path)
        except UserError as error:
            raise InvalidCheckpoint(
                f"{checkpoint.directory}: what it converts to is unsound: "
                f"{error.message.removeprefix(f'{path}: ')}",
                hint="Compare config.json and tokenizer.json with the original model's.",
            ) from error

    return check


def _matched(checkpoint: Checkpoint, family: Family, config: Config) -> dict[str, StoredTensor]:
    """The stored tensors by canonical name, exactly those that the config asks for."""
    wanted = family.shapes(config)
    stored: dict[str, StoredTensor] = {}
    for tensor in checkpoint.tensors.values():
        name = family.canonical_name(tensor.name)
        # A tied head may be stored although the embedding is used in its place.
        if name is None or (name == "lm_head.weight" and name not in wanted):
            continue
        if name in stored:
            raise InvalidCheckpoint(
                f"{checkpoint.directory} holds {name} twice, as {stored[name].name} and as "
                f"{tensor.name}",
                hint="Remove the files of the other copy.",
            )
        stored[name] = tensor
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise InvalidCheckpoint(
            f"{checkpoint.directory} lacks {_listing(missing)}",
            hint="Download all files of the checkpoint; compare config.json with the original.",
        )
    unknown = [name for name in stored if name not in wanted]
    if unknown:
        raise Unsupported(
            f"{checkpoint.directory} holds tensors that {family.arch} does not have: "
            f"{_listing(unknown)}",
            hint="The model differs from its family, or config.json from its weights.",
        )
    _check_tensors(stored, wanted)
    return {name: stored[name] for name in wanted}


def _check_tensors(stored: Mapping[str, StoredTensor], wanted: Mapping[str, Shape]) -> None:
    for name, tensor in stored.items():
        if tensor.shape != wanted[name]:
            raise InvalidCheckpoint(
                f"{tensor.name} has the shape {tensor.shape}, config.json implies {wanted[name]}",
                hint="config.json and weights belong to different models.",
            )
        if tensor.dtype not in FLOAT_TYPES:
            raise Unsupported(
                f"{tensor.name} is stored as {tensor.dtype}",
                hint="Convert from F32, F16 or BF16 weights.",
            )


def _listing(names: Iterable[str]) -> str:
    shown = list(names)
    more = len(shown) - _NAMES_SHOWN
    return ", ".join(shown[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _plan(
    stored: Mapping[str, StoredTensor], family: Family, config: Config, type_name: str
) -> list[_Planned]:
    """The tensors of the file in order, under llama.cpp's names."""
    gguf_name = _namer(family.arch, Sizes.of(config).layers)
    plan = [
        _Planned(name, TensorSpec(name, tensor_type("F32"), array.shape), array)
        for name, array in family.extra_tensors(config).items()
    ]
    for name, tensor in stored.items():
        kind = tensor_type("F32" if len(tensor.shape) == 1 else type_name)
        spec = TensorSpec(gguf_name(name), kind, tensor.shape[::-1])
        plan.append(_Planned(name, spec, tensor))
    return plan


def _namer(arch: str, layers: int) -> Callable[[str], str]:
    """A function from canonical names to llama.cpp's, by the table that gguf keeps."""
    import gguf

    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[arch], layers)

    def rename(name: str) -> str:
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ValueError(f"gguf has no name for {name} in {arch}")
        return str(found)

    return rename


def _data(item: _Planned, family: Family, sizes: Sizes) -> NDArray[Any]:
    """The tensor's data as the file holds it."""
    if not isinstance(item.source, StoredTensor):
        return item.source
    values = family.rearranged(item.name, item.source.read(), sizes)
    if values.ndim == 1:
        values = to_float32(values) + np.float32(family.offset(item.name))
    return encode(item.source.name, values, item.spec.type.name)
