"""What would end the process inside llama.cpp is refused; what is merely unusual is not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import llama_cpp
import pytest

from edgeslm.errors import InvalidGGUF, Unsupported
from edgeslm.gguf.architectures import ARCHITECTURES, EQUAL_HEADS
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.gguf.validation import read_model, validate
from edgeslm.testing import byte_vocabulary, tiny_gguf

TINY = ("llama", "qwen2", "qwen3", "gemma3")


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {
        name: read_header(tiny_gguf(folder / f"{name}.gguf", architecture=name)) for name in TINY
    }


def _with(header, changes):
    """The header with other metadata; a key that starts with a dot is the architecture's own."""
    metadata = dict(header.metadata)
    for key, value in changes.items():
        name = f"{header.architecture}{key}" if key.startswith(".") else key
        if value is None:
            metadata.pop(name, None)
        else:
            metadata[name] = value
    return dataclasses.replace(header, metadata=metadata)


TOKENS = byte_vocabulary()
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPM = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": BYTE_TOKENS + TOKENS[:3] + TOKENS[-11:],
    "tokenizer.ggml.token_type": None,
}
WITHOUT_A = tuple("?" if token == "<0x41>" else token for token in SPM["tokenizer.ggml.tokens"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": None}, "general.architecture is missing"),
        ({".block_count": None}, "llama.block_count is missing"),
        ({".block_count": 0}, "llama.block_count is 0, not 1 to 512"),
        ({".block_count": 513}, "llama.block_count is 513"),
        ({".block_count": "2"}, "llama.block_count is '2', not a whole number"),
        ({".block_count": True}, "llama.block_count is True, not a whole number"),
        ({".context_length": 0}, "llama.context_length is 0"),
        ({".context_length": 2**32 - 1}, "llama.context_length is 4294967295"),
        ({".embedding_length": 0}, "llama.embedding_length is 0"),
        ({".nextn_predict_layers": 3}, "llama.nextn_predict_layers is 3, not 0 to 2"),
        ({".attention.head_count_kv": 3}, "block 0 has 2 heads that cannot share 3 key heads"),
        ({".attention.head_count_kv": (1, 3)}, "block 1 has 2 heads that cannot share 3"),
        ({".attention.head_count": (2,)}, "head_count has 1 values for 2 blocks"),
        ({".attention.key_length": 0}, "attention.key_length is 0"),
        ({".attention.value_length": 8}, "keys are 16 wide and values 8; llama needs one"),
        ({".rope.dimension_count": 18}, "rope.dimension_count is 18, not 1 to 16"),
        ({".rope.dimension_count_swa": 0}, "rope.dimension_count_swa is 0, not 1 to 16"),
        ({".rope.dimension_count": 15}, "rope.dimension_count is 15, not an even number"),
        ({".rope.dimension_count": 8}, "rope.dimension_count is 8, not the 16 of a head"),
        ({".attention.head_count": 8}, "blk.0.attn_q.weight has no rows for 8 heads of 16"),
        ({".attention.head_count": 1}, "blk.0.attn_q.weight has no rows for 1 heads of 16"),
        ({".expert_count": 2000}, "llama.expert_count is 2000"),
        ({".expert_count": 4}, "0 of 4 experts are used"),
        ({".expert_used_count": 2}, "2 of 0 experts are used"),
        (
            {".expert_count": 4, ".expert_used_count": 2, ".expert_group_count": 4},
            "4 experts cannot form 4 groups",
        ),
        (
            {".expert_count": 4, ".expert_used_count": 2, ".expert_group_count": 3},
            "0 of 3 groups of 4 experts are used",
        ),
        ({".full_attention_interval": 0}, "llama.full_attention_interval is 0"),
        ({".attention.layer_norm_rms_epsilon": math.nan}, "epsilon is not a number"),
        ({".attention.layer_norm_rms_epsilon": -1.0}, "epsilon is -1.0"),
        ({".rope.freq_base": math.inf}, "rope.freq_base is inf"),
        ({".logit_scale": math.nan}, "llama.logit_scale is not a number"),
        ({".rope.scaling.type": "dynamic"}, "rope.scaling.type is 'dynamic'"),
        ({".pooling_type": 9}, "pooling_type is 9"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model is missing"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.tokens": ()}, "tokenizer.ggml.tokens is missing or no list"),
        ({"tokenizer.ggml.token_type": (1,)}, "token_type has not one value for each"),
        ({"tokenizer.ggml.scores": (0.0,)}, "scores has not one value for each"),
        ({"tokenizer.ggml.tokens": TOKENS[:-1] + TOKENS[:1]}, "tokens 0 and 269 have the same"),
        ({"tokenizer.ggml.tokens": (*TOKENS[:-1], "!\0x")}, r"tokens 36 and 269 have .*: '!'"),
        ({**SPM, "tokenizer.ggml.tokens": WITHOUT_A}, "no token for the byte 0x41"),
        (
            {"tokenizer.ggml.model": "bert", "tokenizer.ggml.token_type": (6,) * 270},
            "cannot have byte tokens",
        ),
        (
            {
                "tokenizer.ggml.model": "gemma4",
                "tokenizer.ggml.bos_token_id": None,
                "tokenizer.ggml.add_bos_token": True,
            },
            "bos_token_id names no token",
        ),
        ({"tokenizer.ggml.tokens": (*TOKENS, "more"), "tokenizer.ggml.token_type": None},
         "token_embd.weight has 270 rows for a vocabulary of 271"),
    ],
)  # fmt: skip
def test_refused(headers, changes, message):
    with pytest.raises(InvalidGGUF, match=message) as caught:
        validate(_with(headers["llama"], changes))
    assert caught.value.message.startswith(str(headers["llama"].path))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gptx"}, "knows no architecture 'gptx'"),
        ({"general.architecture": "clip"}, "an image or audio encoder"),
        ({"general.type": "adapter"}, "a LoRA adapter"),
        ({"general.type": "imatrix"}, "an importance matrix"),
        ({"tokenizer.ggml.model": "none"}, "has no vocabulary"),
    ],
)
def test_unsupported(headers, changes, message):
    with pytest.raises(Unsupported, match=message) as caught:
        validate(_with(headers["llama"], changes))
    assert caught.value.hint


def test_a_file_without_tensors(headers):
    with pytest.raises(Unsupported, match="holds no tensors"):
        validate(dataclasses.replace(headers["llama"], tensors=()))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("blk.0.attn_norm.weight", "F16", "is a vector in F16"),
        ("blk.0.ffn_up.weight", "I32", "is I32, which no weight can be"),
        ("token_embd.weight", "Q8_K", "is Q8_K, which no weight can be"),
    ],
)
def test_tensor_types_llama_cpp_cannot_compute_with(headers, name, kind, message):
    header = headers["llama"]
    tensors = tuple(
        dataclasses.replace(tensor, type=tensor_type(kind)) if tensor.name == name else tensor
        for tensor in header.tensors
    )
    with pytest.raises(InvalidGGUF, match=message):
        validate(dataclasses.replace(header, tensors=tensors))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        *((name, {}) for name in TINY),
        ("llama", SPM),
        ("llama", {".attention.head_count_kv": None}),
        ("llama", {".attention.head_count": (2, 2), ".attention.head_count_kv": (1, 2)}),
        ("llama", {".attention.key_length": None, ".attention.value_length": None}),
        ("llama", {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0}),
        ("llama", {"tokenizer.ggml.bos_token_id": 2**32 - 1}),
        ("llama", {".expert_count": 4, ".expert_used_count": 2}),
        ("gemma3", {".rope.dimension_count": 8}),
        ("gemma3", {".attention.key_length": 16, ".attention.value_length": 8}),
    ],
)
def test_unusual_but_fine(headers, architecture, changes):
    validate(_with(headers[architecture], changes))


@pytest.mark.parametrize(
    ("architecture", "own"),
    [
        ("lfm2", {".attention.head_count_kv": (0, 1)}),
        ("mamba", {".attention.head_count": 0, ".ssm.conv_kernel": 4, ".ssm.inner_size": 64}),
        ("bert", {".attention.head_count_kv": None, ".attention.causal": False}),
        ("gpt2", {".rope.dimension_count": 0}),
        ("granitehybrid", {".attention.head_count_kv": (1, 0), ".ssm.group_count": 1}),
        (
            "deepseek2",
            {
                ".attention.key_length": 24,
                ".attention.value_length": 16,
                ".rope.dimension_count": 8,
            },
        ),
    ],
)
def test_other_families_pass(headers, architecture, own):
    base = {
        f"{architecture}{key.removeprefix('llama')}": value
        for key, value in headers["llama"].metadata.items()
        if key.startswith("llama.")
    }
    changes = {"general.architecture": architecture, **base}
    changes |= {f"{architecture}{key}": value for key, value in own.items()}
    validate(_with(headers["llama"], changes))


def test_read_model_reads_and_validates(tmp_path: Path):
    path = tiny_gguf(tmp_path / "m.gguf")
    assert read_model(path) == read_header(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"general.architecture", b"general.architectura"))
    with pytest.raises(InvalidGGUF, match=r"general\.architecture is missing"):
        read_model(path)


def test_the_families_are_those_of_the_installed_llama_cpp():
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("libllama.*")).read_bytes()
    assert [name for name in ARCHITECTURES if name.encode() + b"\0" not in library] == []
    assert EQUAL_HEADS <= ARCHITECTURES
