"""What llama.cpp takes for granted about a file.

llama.cpp refuses many contradictions with an error of its own. On the ones here it ends the
process instead (a failed assertion, a division by zero, an exception nobody catches), so they
are found before it sees the file. What is merely unusual passes: llama.cpp decides.

Sources: `src/llama-model.cpp` (load_hparams), `src/llama-vocab.cpp`, `src/llama-hparams.h`,
`src/models/*.cpp` and `ggml/src/ggml-cpu` of the llama.cpp in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgeslm.errors import InvalidGGUF, Unsupported
from edgeslm.gguf.architectures import ARCHITECTURES, EQUAL_HEADS, NO_ROPE, WHOLE_HEAD_ROPE
from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header, read_header
from edgeslm.gguf.types import printable

MAX_BLOCKS = 512
_MAX_EXPERTS = 1024
_MAX_LENGTH = 2**30
"""Beyond any real width or context; llama.cpp's 32-bit arithmetic wraps around later on."""
_INT32_MAX = 2**31 - 1
_HINT = "The file is damaged or was converted wrongly: get it from another source."


def read_model(path: Path) -> Header:
    """Read the header of a file that llama.cpp is about to load.

    Raises:
        InvalidGGUF: see `read_header` and `validate`.
        Unsupported: see `read_header` and `validate`.
        NotFound: there is no such file.
    """
    header = read_header(path)
    validate(header)
    return header


def validate(header: Header) -> None:
    """Refuse what would end the process inside llama.cpp.

    Raises:
        InvalidGGUF: hyperparameters, vocabulary or tensors contradict each other.
        Unsupported: not a language model, or of a family llama.cpp does not know.
    """
    _check_architecture(header)
    _check_sizes(header)
    _check_heads(header)
    _check_head_widths(header)
    _check_experts(header)
    _check_periods(header)
    _check_floats(header)
    _check_choices(header)
    _check_vocabulary(header)
    _check_special_tokens(header)
    _check_tensors(header)


def _fail(header: Header, problem: str) -> NoReturn:
    raise InvalidGGUF(f"{header.path}: {printable(problem)}", hint=_HINT)


# What kind of file it is


_OTHER_FILES = {
    "adapter": "a LoRA adapter, not a model",
    "mmproj": "an image or audio encoder, not a language model",
    "clip": "an image or audio encoder, not a language model",
    "imatrix": "an importance matrix, not a model",
    "controlvector": "a control vector, not a model",
}


def _check_architecture(header: Header) -> None:
    architecture = header.architecture
    kind = header.get("general.type")
    for name in (kind, architecture):
        if isinstance(name, str) and name in _OTHER_FILES:
            raise Unsupported(
                f"{header.path}: {_OTHER_FILES[name]}", hint="Name the language model's own file."
            )
    if architecture is None:
        _fail(header, "general.architecture is missing, so nobody knows what model this is")
    if architecture not in ARCHITECTURES:
        raise Unsupported(
            f"{header.path}: this llama.cpp knows no architecture {printable(architecture)!r}",
            hint="A newer edgeslm may know it.",
        )
    if not header.tensors:
        raise Unsupported(
            f"{header.path}: holds no tensors, only metadata", hint="Name the model's own file."
        )


# Hyperparameters


def _check_sizes(header: Header) -> None:
    for name, most in (
        ("block_count", MAX_BLOCKS),
        ("context_length", _MAX_LENGTH),
        ("embedding_length", _MAX_LENGTH),
    ):
        _integer(header, name, header.hyper(name), 1, most)
    if header.hyper("nextn_predict_layers") is not None:
        count = header.hyper("nextn_predict_layers")
        _integer(header, "nextn_predict_layers", count, 0, header.hyper("block_count"))


def _check_heads(header: Header) -> None:
    heads = _per_layer(header, "attention.head_count")
    kv_heads = _per_layer(header, "attention.head_count_kv")
    for layer, (count, kv_count) in enumerate(zip(heads, kv_heads, strict=False)):
        if count and kv_count and count % kv_count:
            _fail(header, f"block {layer} has {count} heads that cannot share {kv_count} key heads")


def _check_head_widths(header: Header) -> None:
    heads = _per_layer(header, "attention.head_count")
    if not heads or not heads[0]:
        return
    width = header.hyper("embedding_length") // heads[0]
    key, value, rotated = _head_widths(header, "", (width, width, None))
    _head_widths(header, "_swa", (key, value, rotated))
    if header.architecture in WHOLE_HEAD_ROPE and rotated != key:
        _fail(
            header,
            f"{header.architecture}.rope.dimension_count is {rotated}, not the {key} of a head",
        )
    if header.architecture in WHOLE_HEAD_ROPE and header.hyper("attention.key_length_swa") is None:
        _check_queries(header, heads, key)


def _check_queries(header: Header, heads: tuple[int, ...], width: int) -> None:
    """Some families split queries by head without comparing the sizes first."""
    for tensor in header.tensors:
        block, _, name = tensor.name.removeprefix("blk.").partition(".")
        if name != "attn_q.weight" or not block.isdecimal() or int(block) >= len(heads):
            continue
        count = heads[int(block)]
        if count and (len(tensor.shape) != 2 or tensor.shape[1] != count * width):
            _fail(header, f"tensor {tensor.name} has no rows for {count} heads of {width}")


def _head_widths(
    header: Header, suffix: str, default: tuple[int, int, int | None]
) -> tuple[int, int, int]:
    """Widths of a key, a value and their rotated part; `suffix` "_swa" for sliding windows."""
    key_name, value_name = f"attention.key_length{suffix}", f"attention.value_length{suffix}"
    rotated_name = f"rope.dimension_count{suffix}"
    key = _integer(header, key_name, header.hyper(key_name, default[0]), 1, _MAX_LENGTH)
    value = _integer(header, value_name, header.hyper(value_name, default[1]), 1, _MAX_LENGTH)
    if header.architecture in EQUAL_HEADS and key != value:
        _fail(header, f"keys are {key} wide and values {value}; {header.architecture} needs one")
    rotated = header.hyper(rotated_name, key if default[2] is None else default[2])
    _integer(header, rotated_name, rotated, int(header.architecture not in NO_ROPE), key)
    if rotated % 2 and rotated != key:
        _fail(header, f"{header.architecture}.{rotated_name} is {rotated}, not an even number")
    return key, value, rotated


def _check_experts(header: Header) -> None:
    count = _optional(header, "expert_count", 0, _MAX_EXPERTS)
    used = max(_per_layer(header, "expert_used_count"), default=0)
    groups = _optional(header, "expert_group_count", 0, _INT32_MAX)
    groups_used = _optional(header, "expert_group_used_count", 0, _INT32_MAX)
    if count <= 1 and header.architecture in ("hunyuan_vl", "hunyuan-dense"):
        return
    if used > count or (count and not used):
        _fail(header, f"{used} of {count} experts are used for a token")
    if groups and groups >= count:
        _fail(header, f"{count} experts cannot form {groups} groups")
    if groups > 1 and (count % groups or not 0 < groups_used < groups):
        _fail(header, f"{groups_used} of {groups} groups of {count} experts are used for a token")


_DIVISORS = (
    "full_attention_interval",
    "wkv.head_size",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
)
"""llama.cpp divides by these, or makes tensors of that size, where a file has them."""


def _check_periods(header: Header) -> None:
    for name in _DIVISORS:
        if header.hyper(name) == 0:
            _fail(header, f"{header.architecture}.{name} is 0")


_FINITE = ("rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor", "rope.scale_linear")


def _check_floats(header: Header) -> None:
    prefix = f"{header.architecture}."
    for key, value in header.metadata.items():
        if not key.startswith(prefix) or not isinstance(value, float):
            continue
        name = key[len(prefix) :]
        if math.isnan(value):
            _fail(header, f"{key} is not a number")
        if name.endswith("_epsilon") and not 0 <= value < math.inf:
            _fail(header, f"{key} is {value}, not a small positive number")
        if name in _FINITE and not 0 <= value < math.inf:
            _fail(header, f"{key} is {value}")


def _check_choices(header: Header) -> None:
    scaling = header.hyper("rope.scaling.type")
    if isinstance(scaling, str) and scaling not in ("none", "linear", "yarn", "longrope"):
        _fail(header, f"{header.architecture}.rope.scaling.type is {scaling!r}")
    pooling = header.hyper("pooling_type")
    if pooling is not None:
        _integer(header, "pooling_type", pooling, 0, 4)


def _integer(header: Header, name: str, value: Any, least: int, most: int) -> int:
    key = f"{header.architecture}.{name}"
    if value is None:
        _fail(header, f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int):
        _fail(header, f"{key} is {value!r}, not a whole number")
    if not least <= value <= most:
        _fail(header, f"{key} is {value}, not {least} to {most}")
    return int(value)


def _optional(header: Header, name: str, least: int, most: int) -> int:
    """A whole number that counts as 0 where the file has none."""
    value = header.hyper(name)
    return 0 if value is None else _integer(header, name, value, least, most)


def _per_layer(header: Header, name: str) -> tuple[int, ...]:
    """A hyperparameter that is one number, or one per block; empty where the file has none."""
    value, blocks = header.hyper(name), header.hyper("block_count")
    if value is None:
        return ()
    if not isinstance(value, tuple):
        return (_integer(header, name, value, 0, _INT32_MAX),) * int(blocks)
    if len(value) != blocks:
        _fail(header, f"{header.architecture}.{name} has {len(value)} values for {blocks} blocks")
    return tuple(_integer(header, name, item, 0, _INT32_MAX) for item in value)


# Vocabulary


def _check_vocabulary(header: Header) -> None:
    model = header.get("tokenizer.ggml.model")
    if not isinstance(model, str):
        _fail(header, "tokenizer.ggml.model is missing")
    if model in ("none", "no_vocab"):
        raise Unsupported(
            f"{header.path}: has no vocabulary, so text cannot be tokenized",
            hint="Convert the model again with its tokenizer.",
        )
    tokens = header.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, (tuple, Array)) or not tokens or not isinstance(tokens[0], str):
        _fail(header, "tokenizer.ggml.tokens is missing or no list of strings")
    for name in ("scores", "token_type"):
        values = header.get(f"tokenizer.ggml.{name}")
        fits = isinstance(values, (tuple, Array)) and len(values) == len(tokens)
        if values is not None and not fits:
            _fail(header, f"tokenizer.ggml.{name} has not one value for each of the tokens")
    _refuse_duplicate_tokens(header, tokens)
    _check_bytes(header, model, tokens)


_PARTS = 8


def _refuse_duplicate_tokens(header: Header, tokens: Sequence[str]) -> None:
    """llama.cpp asserts that no two tokens have the same text."""
    # as bytes: a text of two Latin letters has the hash of a Chinese one that is stored the same
    hashes = array("q", (hash(text.encode()) for text in _texts(tokens)))
    # an eighth at a time: a set of all would take more memory than the header itself
    parts = ({each for each in hashes if each % _PARTS == part} for part in range(_PARTS))
    if sum(map(len, parts)) == len(tokens):
        return
    seen: dict[str, int] = {}
    for number, text in enumerate(_texts(tokens)):
        if text in seen:
            _fail(header, f"tokens {seen[text]} and {number} have the same text: {text!r}")
        seen[text] = number


def _texts(tokens: Sequence[str]) -> Iterator[str]:
    """As llama.cpp takes them: cut at a zero byte, and the empty ones with names of their own."""
    for number, token in enumerate(tokens):
        yield token.partition("\0")[0] or f"[EMPTY_{number}]"


def _check_bytes(header: Header, model: str, tokens: Sequence[str]) -> None:
    """Byte tokens are what an unknown character becomes; without them the lookup throws."""
    if model == "llama":
        known = {token for token in tokens if len(token) in (1, len("<0x00>"))}
        for byte in range(256):
            if f"<0x{byte:02X}>" not in known and (byte > 127 or chr(byte) not in known):
                _fail(header, f"the vocabulary has no token for the byte 0x{byte:02X}")
    elif model == "bert" and 6 in header.get("tokenizer.ggml.token_type", ()):
        _fail(header, "a WordPiece vocabulary cannot have byte tokens")


_DEFAULT_IDS = {
    "llama": {"bos": 1, "eos": 2},
    "bert": {"bos": 101, "sep": 102},
    "gpt2": {"bos": 11, "eos": 11},
    "t5": {"eos": 1},
}
"""Ids llama.cpp assumes where a file names none."""
_DEFAULT_ADDED = {"llama": {"bos"}, "bert": {"bos", "sep"}, "t5": {"eos"}, "gemma4": {"bos"}}
_SPECIAL_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
}


def _check_special_tokens(header: Header) -> None:
    """A token that llama.cpp adds to every text has to exist: it asserts so when tokenizing."""
    model = header.get("tokenizer.ggml.model")
    size = len(header.get("tokenizer.ggml.tokens"))
    for name, key in _SPECIAL_KEYS.items():
        default = name in _DEFAULT_ADDED.get(model, ())
        if model in ("rwkv", "test") or not header.get(f"tokenizer.ggml.add_{name}_token", default):
            continue
        number = header.get(key)
        if not isinstance(number, int) or not 0 <= number < size:
            number = _DEFAULT_IDS.get(model, {}).get(name, size)
        if number >= size:
            _fail(header, f"{key} names no token, yet one is added to every text")


# Tensors


_NO_WEIGHTS = ("I8", "I16", "I64", "F64", "Q8_1", "Q8_K")
"""Types that llama.cpp computes with or counts in, but cannot multiply by."""


def _check_tensors(header: Header) -> None:
    for tensor in header.tensors:
        kind = tensor.type.name
        if kind in _NO_WEIGHTS or (kind == "I32" and "tid2eid" not in tensor.name):
            _fail(header, f"tensor {tensor.name} is {kind}, which no weight can be")
        if len(tensor.shape) == 1 and kind not in ("F32", "I32"):
            _fail(header, f"tensor {tensor.name} is a vector in {kind}; vectors have to be F32")
    tokens = len(header.get("tokenizer.ggml.tokens"))
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and math.prod(tensor.shape[1:]) != tokens:
            rows = math.prod(tensor.shape[1:])
            _fail(header, f"token_embd.weight has {rows} rows for a vocabulary of {tokens}")
