"""Small real fakes, for the tests of programs that use edgeslm and for our own.

`tiny_gguf` writes a model of some hundred kilobytes with random weights that llama.cpp truly
loads, tokenizes for and decodes. What it says is noise, but the same noise for the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.errors import InvalidOption
from edgeslm.gguf.types import FILE_TYPES, Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "i n", "r e", "a n", "Ġ a", "o u", "Ġt he", "in g", "Ġa n", "an d")
_NORMAL, _CONTROL = 1, 3
_HYBRIDS = ("granitehybrid", "lfm2")
"""Every third layer has attention, the others a state."""
_ARCHITECTURES = ("llama", "qwen2", "qwen2vl", "qwen3", "gemma3", "deci", *_HYBRIDS)
_CONVOLVED, _STATES = 4, 16
_ALWAYS_F32 = ("shortconv.conv.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", "ssm_norm.weight")


@dataclass(frozen=True)
class _Shape:
    """Sizes of a tiny model."""

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    context_length: int
    head_width: int
    tied: bool

    def kv_heads_of(self, layer: int) -> int:
        """Some families differ from layer to layer: deci has twice as many in every other."""
        if self.architecture in _HYBRIDS:
            return self.kv_heads if layer % 3 == 1 else 0
        return self.kv_heads * (1 + layer % 2) if self.architecture == "deci" else self.kv_heads


def tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    layers: int = 2,
    width: int = 32,
    heads: int = 2,
    kv_heads: int = 1,
    feed_forward: int = 64,
    context_length: int = 256,
    head_width: int | None = None,
    tied: bool = True,
    norm_spread: float = 0.0,
    weight_type: str = "F32",
    seed: int = 0,
) -> Path:
    """Write a tiny model with random weights and a byte-level vocabulary; returns `path`.

    Args:
        path: Where the file goes.
        architecture: "llama", "qwen2", "qwen3", "gemma3"; "qwen2vl", whose tokens have several
            positions; "deci", whose layers differ in their heads; or "lfm2", "granitehybrid", whose
            layers are mostly recurrent.
        layers: Number of blocks.
        width: Length of an embedding.
        heads: Attention heads, a multiple of `kv_heads`.
        kv_heads: Heads of keys and values.
        feed_forward: Width inside the feed-forward part.
        context_length: The context the model claims to have been trained for.
        head_width: Numbers in a head; None for `width` / `heads`.
        tied: Whether the embedding is the head too.
        norm_spread: How far the norms' weights are from one.
        weight_type: "F32" or "F16", for the matrices; vectors are always F32.
        seed: Another seed gives other weights.

    Raises:
        InvalidOption: an architecture or type that is not among those.
    """
    if architecture not in _ARCHITECTURES or weight_type not in ("F32", "F16"):
        raise InvalidOption(f"no tiny model: {architecture} with {weight_type} weights")
    shape = _Shape(
        architecture,
        *(layers, width, heads, kv_heads, feed_forward, context_length),
        head_width=head_width or width // heads,
        tied=tied,
    )
    tensors = [
        TensorSpec(name, tensor_type(weight_type if _may_be_short(name, size) else "F32"), size)
        for name, size in _tensors(shape)
    ]
    fields = (*_hyperparameters(shape, weight_type), *_vocabulary_fields())
    write_gguf(
        path, fields, tensors, lambda index: _weights(tensors[index], seed, index, norm_spread)
    )
    return path


def _may_be_short(name: str, size: tuple[int, ...]) -> bool:
    return len(size) > 1 and not name.endswith(_ALWAYS_F32)


def tiny_imatrix(path: Path, model: Path, *, seed: int = 0) -> Path:
    """Write an importance matrix with random numbers for the GGUF file `model`; returns `path`.

    As llama-imatrix does, it leaves out the embedding and the head.
    """
    import numpy as np

    from edgeslm.gguf.imatrix import Importance, ImportanceMatrix, write_imatrix
    from edgeslm.gguf.reader import read_header

    tensors = {}
    for index, tensor in enumerate(read_header(model).tensors):
        if len(tensor.shape) > 1 and tensor.name.startswith("blk."):
            numbers = np.random.default_rng([seed, index]).chisquare(1, (1, tensor.shape[0]))
            tensors[tensor.name] = Importance(numbers.astype(np.float32), np.array([64]))
    write_imatrix(path, ImportanceMatrix(tensors, ("random.txt",), 1, 64))
    return path


def tiny_adapter(
    path: Path,
    model: Path,
    *,
    tensors: tuple[str, ...] = ("attn_q.weight", "ffn_up.weight"),
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 0,
) -> Path:
    """Write a low-rank adapter with random numbers for the GGUF file `model`; returns `path`.

    Args:
        path: Where the file goes.
        model: What it is for.
        tensors: How the names of the matrices end that it changes.
        rank: Columns of A.
        alpha: Its strength is `alpha` / `rank`.
        seed: Another seed gives another adapter.
    """
    import numpy as np

    from edgeslm.gguf.reader import read_header

    header = read_header(model)
    specs = []
    for tensor in header.tensors:
        if tensor.name.endswith(tensors):
            inner, outer = tensor.shape
            specs.append(TensorSpec(f"{tensor.name}.lora_a", tensor_type("F32"), (inner, rank)))
            specs.append(TensorSpec(f"{tensor.name}.lora_b", tensor_type("F32"), (rank, outer)))
    text = ValueType.STRING
    fields = (
        Field("general.type", text, "adapter"),
        Field("general.architecture", text, header.architecture),
        Field("adapter.type", text, "lora"),
        Field("adapter.lora.alpha", ValueType.FLOAT32, alpha),
    )

    def numbers(index: int) -> NDArray[Any]:
        shape = specs[index].shape
        drawn = np.random.default_rng([seed, index]).standard_normal(shape[::-1], np.float32)
        scaled: NDArray[Any] = drawn * np.float32(shape[0] ** -0.5)
        return scaled

    write_gguf(path, fields, specs, numbers)
    return path


def byte_vocabulary() -> tuple[str, ...]:
    """Tokens in order of their ids: control tokens, 256 bytes, merged pieces."""
    return (*CONTROL_TOKENS, *_byte_characters(), *(pair.replace(" ", "") for pair in MERGES))


def _byte_characters() -> list[str]:
    """The printable character that byte-level vocabularies write for each of the 256 bytes."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def _hyperparameters(shape: _Shape, weight_type: str) -> list[Field]:
    file_types = {name: number for number, name in FILE_TYPES.items()}
    integers = {
        "context_length": shape.context_length,
        "embedding_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "rope.dimension_count": shape.head_width,
    }
    if shape.architecture == "gemma3":
        integers["attention.sliding_window"] = 32
    if shape.architecture == "lfm2":
        integers["shortconv.l_cache"] = _CONVOLVED
    if shape.architecture == "granitehybrid":
        integers |= {
            "ssm.conv_kernel": _CONVOLVED,
            "ssm.inner_size": 2 * shape.width,
            "ssm.state_size": _STATES,
            "ssm.time_step_rank": shape.heads,
            "ssm.group_count": 1,
        }
    kv_heads = [shape.kv_heads_of(layer) for layer in range(shape.layers)]
    floats = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0}
    own = shape.architecture
    return [
        Field("general.architecture", ValueType.STRING, own),
        Field("general.name", ValueType.STRING, f"Tiny {own}"),
        Field("general.license", ValueType.STRING, "apache-2.0"),
        Field("general.file_type", ValueType.UINT32, file_types[weight_type]),
        *(Field(f"{own}.{name}", ValueType.UINT32, value) for name, value in integers.items()),
        Field(f"{own}.attention.head_count_kv", ValueType.ARRAY, kv_heads, ValueType.UINT32)
        if len(set(kv_heads)) > 1
        else Field(f"{own}.attention.head_count_kv", ValueType.UINT32, kv_heads[0]),
        *(Field(f"{own}.{name}", ValueType.FLOAT32, value) for name, value in floats.items()),
        *_positions(shape),
    ]


def _positions(shape: _Shape) -> list[Field]:
    """How many pairs of a head's numbers turn with each of a token's positions."""
    if shape.architecture != "qwen2vl":
        return []
    third = shape.head_width // 6
    sections = [shape.head_width // 2 - 2 * third, third, third, 0]
    name = f"{shape.architecture}.rope.dimension_sections"
    return [Field(name, ValueType.ARRAY, sections, ValueType.INT32)]


def _vocabulary_fields() -> list[Field]:
    tokens = byte_vocabulary()
    controls = len(CONTROL_TOKENS)
    types = [_CONTROL] * controls + [_NORMAL] * (len(tokens) - controls)
    ids = {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}
    array, text = ValueType.ARRAY, ValueType.STRING
    return [
        Field("tokenizer.ggml.model", text, "gpt2"),
        Field("tokenizer.ggml.pre", text, "gpt-2"),
        Field("tokenizer.ggml.tokens", array, tokens, text),
        Field("tokenizer.ggml.token_type", array, types, ValueType.INT32),
        Field("tokenizer.ggml.merges", array, MERGES, text),
        *(
            Field(f"tokenizer.ggml.{name}_token_id", ValueType.UINT32, number)
            for name, number in ids.items()
        ),
        Field("tokenizer.ggml.add_bos_token", ValueType.BOOL, False),
        Field("tokenizer.chat_template", text, CHAT_TEMPLATE),
    ]


def _tensors(shape: _Shape) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes (ggml order) of everything llama.cpp expects."""
    last_norm = "token_embd_norm" if shape.architecture == "lfm2" else "output_norm"
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (shape.width, len(byte_vocabulary()))),
        (f"{last_norm}.weight", (shape.width,)),
    ]
    if not shape.tied:
        tensors.append(("output.weight", (shape.width, len(byte_vocabulary()))))
    for layer in range(shape.layers):
        mixing = _attention(shape, layer) if shape.kv_heads_of(layer) else _recurrence(shape)
        tensors += [(f"blk.{layer}.{name}", size) for name, size in mixing + _feed_forward(shape)]
    return tensors


def _attention(shape: _Shape, layer: int) -> list[tuple[str, tuple[int, ...]]]:
    width, kv = shape.width, shape.head_width * shape.kv_heads_of(layer)
    attended = shape.head_width * shape.heads
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("attn_norm.weight", (width,)),
        ("attn_q.weight", (width, attended)),
        ("attn_k.weight", (width, kv)),
        ("attn_v.weight", (width, kv)),
        ("attn_output.weight", (attended, width)),
    ]
    if shape.architecture in ("qwen2", "qwen2vl"):
        tensors += [("attn_q.bias", (attended,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,))]
    if shape.architecture in ("qwen3", "gemma3", "lfm2"):
        head = (shape.head_width,)
        tensors += [("attn_q_norm.weight", head), ("attn_k_norm.weight", head)]
    if shape.architecture == "gemma3":
        tensors += [("post_attention_norm.weight", (width,)), ("post_ffw_norm.weight", (width,))]
    return tensors


def _recurrence(shape: _Shape) -> list[tuple[str, tuple[int, ...]]]:
    """A layer with a state: LFM2's short convolution, or Mamba 2."""
    width, inner, heads = shape.width, 2 * shape.width, shape.heads
    norm = ("attn_norm.weight", (width,))
    if shape.architecture == "lfm2":
        return [
            norm,
            ("shortconv.conv.weight", (_CONVOLVED, width)),
            ("shortconv.in_proj.weight", (width, 3 * width)),
            ("shortconv.out_proj.weight", (width, width)),
        ]
    convolved = inner + 2 * _STATES
    return [
        norm,
        ("ssm_in.weight", (width, inner + convolved + heads)),
        ("ssm_conv1d.weight", (_CONVOLVED, convolved)),
        ("ssm_conv1d.bias", (convolved,)),
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (1, heads)),
        ("ssm_d", (1, heads)),
        ("ssm_norm.weight", (inner, 1)),
        ("ssm_out.weight", (inner, width)),
    ]


def _feed_forward(shape: _Shape) -> list[tuple[str, tuple[int, ...]]]:
    width, inner = shape.width, shape.feed_forward
    return [
        ("ffn_norm.weight", (width,)),
        ("ffn_gate.weight", (width, inner)),
        ("ffn_up.weight", (width, inner)),
        ("ffn_down.weight", (inner, width)),
    ]


def _weights(tensor: TensorSpec, seed: int, index: int, spread: float) -> NDArray[Any]:
    """Numbers that keep activations near one: norms near one, matrices scaled by their fan-in."""
    import numpy as np

    size = tensor.shape[::-1]
    numbers = np.random.default_rng([seed, index]).standard_normal(size, np.float32)
    if tensor.name.endswith("norm.weight"):
        around_one: NDArray[Any] = np.float32(1) + np.float32(spread) * numbers
        return around_one
    if tensor.name.endswith("ssm_a"):
        decay: NDArray[Any] = -np.abs(numbers)
        return decay
    scale = np.float32(tensor.shape[0] ** -0.5)
    scaled: NDArray[Any] = numbers * scale
    return scaled.astype(np.float16) if tensor.type.name == "F16" else scaled
