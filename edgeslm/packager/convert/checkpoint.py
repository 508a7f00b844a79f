"""A Hugging Face checkpoint directory: its config.json, its side files, its tensors.

Reads what transformers 4 and 5 write. Which tensors the weights hold is read when it is
asked for; their data comes one tensor at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeslm.errors import InvalidCheckpoint, NotFound, Unsupported, reading
from edgeslm.packager.convert.safetensors import StoredTensor, read_header

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
FLOAT_TYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint directory."""

    directory: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """What the weights hold, by name; read when first asked for.

        Raises:
            InvalidCheckpoint: files are missing or damaged.
        """
        return _tensors(self.directory)

    @property
    def architecture(self) -> str:
        """The first entry of `architectures`, for example LlamaForCausalLM."""
        names = self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise InvalidCheckpoint(
                f"{self.directory / 'config.json'} names no architecture",
                hint='Add "architectures": ["LlamaForCausalLM"] or whichever class it is.',
            )
        return names[0]

    @property
    def dtype(self) -> str:
        """The type most of the weights are stored in: F32, F16 or BF16."""
        totals: Counter[str] = Counter()
        for tensor in self.tensors.values():
            totals[tensor.dtype] += tensor.bytes
        (dtype, _) = totals.most_common(1)[0]
        return dtype


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a directory and read its configuration.

    Raises:
        NotFound: there is no such directory.
        InvalidCheckpoint: it is no checkpoint, or one with missing or damaged files.
        Unsupported: a checkpoint in a form that cannot be converted.
    """
    with reading(directory):
        _check_directory(directory)
    config = read_json(directory / "config.json")
    if config.get("quantization_config") or config.get("compression_config"):
        raise Unsupported(
            f"{directory} is already quantized ({_method(config)})",
            hint="Convert the original checkpoint, then quantize the GGUF file.",
        )
    generation = read_optional_json(directory / "generation_config.json")
    return Checkpoint(directory, config, generation)


def _check_directory(directory: Path) -> None:
    if not directory.exists():
        raise NotFound(f"{directory}: no such directory", hint="Check the path.")
    if not directory.is_dir():
        raise InvalidCheckpoint(
            f"{directory} is a file, not a checkpoint directory",
            hint="Name the directory that holds config.json and model.safetensors.",
        )
    if not (directory / "config.json").is_file():
        raise _no_config(directory)


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InvalidCheckpoint: it holds something else.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpoint(
            f"{path}: not valid JSON: {error}", hint="Download or copy it again."
        ) from error
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"{path}: not a JSON object", hint="Download or copy it again.")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Like `read_json`, and empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def _no_config(directory: Path) -> InvalidCheckpoint:
    if (directory / "adapter_config.json").is_file():
        return InvalidCheckpoint(
            f"{directory} holds only an adapter, not a model",
            hint="Merge it into its base model first (peft: merge_and_unload), then convert.",
        )
    return InvalidCheckpoint(
        f"{directory} has no config.json",
        hint="Name a Hugging Face model directory: config.json, safetensors, tokenizer.json.",
    )


def _method(config: Mapping[str, Any]) -> str:
    settings = config.get("quantization_config") or config.get("compression_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return str(method or "unknown method")


def _tensors(directory: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    with reading(directory):
        shards = _shards(directory)
    for path in shards:
        for tensor in read_header(path):
            if tensor.name in tensors:
                raise InvalidCheckpoint(
                    f"{tensor.name} is in both {tensors[tensor.name].path.name} and {path.name}",
                    hint="Remove the files of the other copy.",
                )
            tensors[tensor.name] = tensor
    if not tensors:
        raise InvalidCheckpoint(f"{directory} holds no tensors", hint="Download it again.")
    return tensors


def _shards(directory: Path) -> list[Path]:
    """The files that hold the weights."""
    if (directory / _INDEX).is_file():
        return _indexed(directory)
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    if any(directory.glob("*.safetensors")):
        raise InvalidCheckpoint(
            f"{directory} has safetensors files but neither {_SINGLE} nor {_INDEX}",
            hint="Download the missing index, or rename a single file to model.safetensors.",
        )
    if any(directory.glob("pytorch_model*.bin")):
        raise Unsupported(
            f"{directory} has only pytorch_model.bin weights",
            hint="Save them as safetensors: AutoModelForCausalLM.from_pretrained(dir)"
            ".save_pretrained(new_dir).",
        )
    raise InvalidCheckpoint(
        f"{directory} has no {_SINGLE}", hint="Download the weights beside config.json."
    )


def _indexed(directory: Path) -> list[Path]:
    weights = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(n, str) for n in weights.values()):
        raise InvalidCheckpoint(
            f"{directory / _INDEX} has no weight_map", hint="Download it again."
        )
    names = sorted(set(weights.values()))
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise InvalidCheckpoint(
            f"{directory / _INDEX} points outside its directory: {strange[0]}",
            hint="Get the checkpoint from a source you trust.",
        )
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise InvalidCheckpoint(
            f"{directory} lacks {len(missing)} of {len(names)} weight files: {missing[0]}",
            hint="Download the missing files.",
        )
    return [directory / name for name in names]
