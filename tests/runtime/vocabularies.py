"""Tiny models that speak with the vocabularies and chat templates of well-known ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import Field, ValueType, tensor_type
from edgeslm.gguf.writer import TensorSpec, write_gguf
from edgeslm.packager.convert.checkpoint import open_checkpoint
from edgeslm.packager.convert.special import chat_templates
from edgeslm.packager.convert.tokenizer import read_vocabulary
from edgeslm.testing import CONTROL_TOKENS, MERGES, byte_vocabulary

_WIDTH, _HIDDEN = 32, 32
_TEMPLATE = "tokenizer.chat_template"


def from_tokenizer(folder: Path, path: Path, template: str | None = None) -> Path:
    """A model with the vocabulary in `folder`, converted as `edgeslm convert` does it."""
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    checkpoint = open_checkpoint(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = [*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]
    fields = read_vocabulary(checkpoint, max(ids) + 1).fields()
    return write_model(path, [*fields, *chat_templates(checkpoint)], template)


def from_gguf(vocabulary: Path, path: Path, template: str) -> Path:
    """A model with the vocabulary of another GGUF file."""
    fields = read_header(vocabulary).fields()
    return write_model(path, [f for f in fields if f.key.startswith("tokenizer.")], template)


def write_model(path: Path, vocabulary: Iterable[Field], template: str | None) -> Path:
    """A llama of one layer, all zeros, with that vocabulary."""
    fields = [each for each in vocabulary if template is None or each.key != _TEMPLATE]
    if template is not None:
        fields.append(Field(_TEMPLATE, ValueType.STRING, template))
    tokens = next(each.value for each in fields if each.key == "tokenizer.ggml.tokens")
    tensors = [
        TensorSpec(name, tensor_type("F16" if len(shape) > 1 else "F32"), shape)
        for name, shape in _shapes(len(tokens))
    ]

    def zeros(index: int) -> NDArray[np.float16]:
        kind = np.float16 if len(tensors[index].shape) > 1 else np.float32
        return np.zeros(tensors[index].shape[::-1], kind)  # type: ignore[return-value]

    write_gguf(path, [*_hyperparameters(), *fields], tensors, zeros)
    return path


def _hyperparameters() -> Sequence[Field]:
    whole = {
        "context_length": 4096,
        "embedding_length": _WIDTH,
        "block_count": 1,
        "feed_forward_length": _HIDDEN,
        "attention.head_count": 1,
        "rope.dimension_count": _WIDTH,
    }
    return [
        Field("general.architecture", ValueType.STRING, "llama"),
        Field("llama.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
        *(Field(f"llama.{key}", ValueType.UINT32, value) for key, value in whole.items()),
    ]


def _shapes(tokens: int) -> list[tuple[str, tuple[int, ...]]]:
    square = (_WIDTH, _WIDTH)
    block = {f"attn_{name}.weight": square for name in ("q", "k", "v", "output")}
    block |= {f"ffn_{name}.weight": (_WIDTH, _HIDDEN) for name in ("gate", "up")}
    block |= {"ffn_down.weight": (_HIDDEN, _WIDTH)}
    block |= {f"{name}_norm.weight": (_WIDTH,) for name in ("attn", "ffn")}
    return [
        ("token_embd.weight", (_WIDTH, tokens)),
        ("output_norm.weight", (_WIDTH,)),
        *((f"blk.0.{name}", shape) for name, shape in block.items()),
    ]


_CHATML = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}<|im_start|>assistant\n"
)
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{% if loop.first and tools %}{% for t in tools %}{{ t | tojson(indent=4) }}\n\n"
    "{% endfor %}{% endif %}{% if m.tool_calls %}<|python_tag|>"
    '{{ \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
    "{{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content | trim }}"
    "{% endif %}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first }}{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)
_PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + '\n' + m.content + '<|end|>' + '\n' }}"
    "{% endfor %}<|assistant|>\n"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}"
    "[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]{% elif m.role == 'tool' %}[TOOL_RESULTS] "
    '{{ {"content": m.content, "call_id": m.tool_call_id} | tojson }}[/TOOL_RESULTS]'
    "{% elif m.tool_calls %}[TOOL_CALLS] "
    "{{ m.tool_calls | map(attribute='function') | list | tojson }}"
    "{{ eos_token }}{% elif m.role == 'system' %}<<SYS>>{{ m.content }}<</SYS>>"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "chatml": (
        "gpt2",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<tool_call>", "</tool_call>", "<think>", "</think>"),
        _CHATML,
    ),
    "llama3": (
        "gpt2",
        (
            *("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
            "<|python_tag|>",
        ),
        (),
        _LLAMA3,
    ),
    "gemma": ("llama", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), (), _GEMMA),
    "phi": (
        "llama",
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        (),
        _PHI,
    ),
    "mistral": (
        "llama",
        (
            *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
        (),
        _MISTRAL,
    ),
}
"""By name: the kind of vocabulary, control tokens, tokens found in any text, and the template.

Shaped after the templates of those families, and small.
"""


def family_gguf(path: Path, name: str) -> Path:
    """A model that speaks as one of `FAMILIES`, with a vocabulary of bytes and characters."""
    kind, control, defined, template = FAMILIES[name]
    plain, types, scores = _byte_level() if kind == "gpt2" else _pieces()
    tokens = (*control, *defined, *plain)
    types = [3] * len(control) + [4] * len(defined) + types
    text, array = ValueType.STRING, ValueType.ARRAY
    fields = [
        Field("tokenizer.ggml.model", text, kind),
        Field("tokenizer.ggml.pre", text, "llama-bpe" if name == "llama3" else "default"),
        Field("tokenizer.ggml.tokens", array, tokens, text),
        Field("tokenizer.ggml.token_type", array, types, ValueType.INT32),
        Field("tokenizer.ggml.bos_token_id", ValueType.UINT32, 0),
        Field("tokenizer.ggml.eos_token_id", ValueType.UINT32, 1),
        Field("tokenizer.ggml.add_bos_token", ValueType.BOOL, name != "chatml"),
        Field("tokenizer.ggml.add_space_prefix", ValueType.BOOL, name in ("phi", "mistral")),
    ]
    if kind == "gpt2":
        fields.append(Field("tokenizer.ggml.merges", array, MERGES, text))
    else:
        unknown = tokens.index("<unk>")
        fields.append(Field("tokenizer.ggml.unknown_token_id", ValueType.UINT32, unknown))
        values = [0.0] * (len(control) + len(defined)) + scores
        fields.append(Field("tokenizer.ggml.scores", array, values, ValueType.FLOAT32))
    return write_model(path, fields, template)


def _byte_level() -> tuple[tuple[str, ...], list[int], list[float]]:
    plain = byte_vocabulary()[len(CONTROL_TOKENS) :]
    return plain, [1] * len(plain), []


def _pieces() -> tuple[tuple[str, ...], list[int], list[float]]:
    """Bytes, visible ASCII, and pieces from which control tokens can be put together."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    visible = [chr(code) for code in range(0x21, 0x7F)]
    pieces = ["<s", "</", "</s", "<bo", "<bos", "os>", "[INST", "<|", "|>"]
    pieces += ["<|e", "<|en", "<|end", "<|end|", "\u2581", "\u2581<"]
    tokens = ("<unk>", *bytes_, *visible, *pieces)
    types = [2] + [6] * len(bytes_) + [1] * (len(visible) + len(pieces))
    scores = [0.0] * (1 + len(bytes_)) + [-float(n) for n in range(len(visible) + len(pieces))]
    return tokens, types, scores
