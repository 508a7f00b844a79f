"""A configuration alone gives the tensors that the converted file has, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import EdgeslmError, InvalidCheckpoint, Unsupported
from edgeslm.estimate.memory import plan_memory
from edgeslm.estimate.mixes import as_file_type
from edgeslm.estimate.rows import model_configs
from edgeslm.estimate.shapes import header_from_config, header_of_config
from edgeslm.estimate.work import work_of
from edgeslm.targets.loading import data_directory

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "tie_word_embeddings": True,
}


LFM2 = {
    "architectures": ["Lfm2ForCausalLM"],
    "layer_types": ["conv", "full_attention", "conv"],
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 192,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "conv_L_cache": 4,
}


PUBLISHED_PARAMETERS = {
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "llama-3.2-1b": 1_235_814_432,
    "qwen2.5-0.5b": 630_167_424 - 151_936 * 896,
    "qwen3-0.6b": 751_632_384 - 151_936 * 1024,
    "lfm2-350m": 354_483_968,
    "phi-4-mini": 3_836_021_760,
    "olmo-2-1b": 1_484_916_736,
    "smollm3-3b": 3_075_098_624,
}
"""As llama-bench or the makers state them; Llama's has 32 factors of its rope more."""


GRANITE_H_350M = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "hidden_size": 768,
    "num_hidden_layers": 32,
    "layer_types": ["attention" if layer in (10, 13, 17, 27) else "mamba" for layer in range(32)],
    "shared_intermediate_size": 2048,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "mamba_expand": 2,
    "mamba_n_heads": 48,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "vocab_size": 100352,
    "tie_word_embeddings": True,
}


def test_a_hybrid_has_as_many_weights_as_published_and_caches_in_few_layers() -> None:
    header = header_from_config(Path("granite"), GRANITE_H_350M)

    assert sum(tensor.elements for tensor in header.tensors) == pytest.approx(340e6, rel=0.01)
    assert work_of(header).cached == {None: 4 * 2 * 4 * 128}
    assert plan_memory(header, context_length=8192).kv_bytes < 80e6


def test_an_unknown_family_is_taken_for_a_plain_decoder_and_says_so(tmp_path: Path) -> None:
    known, new = tmp_path / "known.json", tmp_path / "new.json"
    known.write_text(json.dumps(LLAMA))
    new.write_text(json.dumps(LLAMA | {"architectures": ["BrandNewForCausalLM"]}))

    plain, guessed = header_of_config(known), header_of_config(new)

    assert [each.shape for each in guessed.header.tensors] == [
        each.shape for each in plain.header.tensors
    ]
    assert plain.assumed is None
    assert guessed.assumed and "BrandNewForCausalLM" in guessed.assumed
    with pytest.raises(Unsupported, match="mamba_d_state"):
        header_from_config(
            Path("new"),
            LLAMA | {"architectures": ["BrandNewForCausalLM"], "mamba_d_state": 64},
        )


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_real_models_have_as_many_weights_as_published(name: str) -> None:
    header = header_from_config(Path(name), model_configs()[name])

    count = sum(tensor.elements for tensor in header.tensors)

    assert count == pytest.approx(PUBLISHED_PARAMETERS[name], rel=2e-4)


@pytest.mark.parametrize(
    ("model", "label", "size"),
    [
        ("gemma-3-1b", "IQ3_XS", 683_281_408),
        ("gemma-3-1b", "IQ3_M", 690_527_488),
        ("gemma-3-1b", "Q3_K_L", 745_042_432),
        ("gemma-3-1b", "Q4_K_M", 799_525_120),
        ("gemma-3-270m", "Q3_K_S", 230_183_424),
        ("gemma-3-270m", "Q4_K_S", 243_362_304),
        ("gemma-3-270m", "IQ4_NL", 235_764_224),
        ("llama-3.2-1b", "Q3_K_M", 683_012_224),
        ("llama-3.2-1b", "Q5_K_S", 884_732_032),
        ("llama-3.2-1b", "Q5_1", 945_549_440),
        ("llama-3.2-1b", "Q6_K", 1_013_969_024),
        ("llama-3.2-1b", "Q8_0", 1_313_251_456),
    ],
)
def test_a_label_gives_the_size_that_llama_bench_saw(model: str, label: str, size: int) -> None:
    """Sizes of tensors in sensura-san/llm-bench, files made by llama-quantize b7095."""
    header = as_file_type(header_from_config(Path(model), model_configs()[model]), label)

    assert sum(tensor.bytes for tensor in header.tensors) == pytest.approx(size, rel=1e-6)


def test_experts_are_counted_as_far_as_a_token_uses_them() -> None:
    dense = header_from_config(Path("dense"), LLAMA)
    mixture = header_from_config(
        Path("mixture"),
        LLAMA
        | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 160,
        },
    )

    read, once = (sum(work_of(each).read.values()) for each in (mixture, dense))

    feed_forward = 3 * 2 * 3 * 64 * 160
    gates = 4 * 3 * 64 * 8  # kept in F32
    norms = 4 * 3 * 2 * 16
    assert read == once + feed_forward + gates + norms


def test_experts_that_every_token_uses_count_whole() -> None:
    mixture = LLAMA | {
        "architectures": ["Qwen2MoeForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    alone = header_from_config(Path("alone"), mixture)
    shared = header_from_config(Path("shared"), mixture | {"shared_expert_intermediate_size": 160})

    more = sum(work_of(shared).read.values()) - sum(work_of(alone).read.values())

    assert more == 3 * (2 * 3 * 64 * 160 + 4 * 64)


def test_a_hybrid_mixture_has_experts_of_one_width_and_a_shared_part_of_another() -> None:
    """Granite 4.0 H Tiny: 7 billion weights, with 6 of 64 experts for each token."""
    layers = 40
    header = header_from_config(
        Path("granite"),
        GRANITE_H_350M
        | {
            "hidden_size": 1536,
            "num_hidden_layers": layers,
            "layer_types": [
                "attention" if n in (5, 15, 25, 35) else "mamba" for n in range(layers)
            ],
            "intermediate_size": 512,
            "shared_intermediate_size": 1024,
            "num_local_experts": 64,
            "num_experts_per_tok": 6,
        },
    )

    weights = sum(tensor.elements for tensor in header.tensors)
    assert weights == pytest.approx(7e9, rel=0.03)
    idle = layers * (64 - 6) * 3 * 1536 * 512
    assert sum(work_of(header).multiplied.values()) == pytest.approx(weights - idle, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 2},
        {"architectures": ["Qwen2MoeForCausalLM"], "mlp_only_layers": [0]},
        {"architectures": ["OlmoForCausalLM"]},
    ],
)
def test_mixtures_of_another_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="mixture of experts"):
        header_from_config(Path("mixture"), LLAMA | {"num_experts": 8} | change)


def test_gemma_3_leaves_to_its_family_what_it_does_not_say(tmp_path: Path) -> None:
    """The configuration of Gemma 3 4B: 3.88 billion weights in its text part."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "hidden_size": 1,
                "text_config": {
                    "architectures": None,
                    "hidden_size": 2560,
                    "intermediate_size": 10240,
                    "num_hidden_layers": 34,
                    "sliding_window": 1024,
                },
            }
        )
    )
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({"architectures": ["Gemma3ForCausalLM"], "head_dim": None}))

    header = header_of_config(path).header

    assert sum(tensor.elements for tensor in header.tensors) == pytest.approx(3.88e9, rel=0.001)
    assert header.hyper("attention.sliding_window") == 1024
    assert header.hyper("context_length") == 131_072
    small = header_of_config(bare).header
    assert small.hyper("attention.sliding_window") == 4096
    assert small.hyper("attention.key_length") == 256


def test_a_window_bounds_what_is_read_of_the_cache() -> None:
    work = work_of(header_from_config(Path("gemma"), model_configs()["gemma-3-1b"]))

    assert work.cache_bytes(512) == 26 * 2 * 512 * 512
    assert work.cache_bytes(4096) == (4 * 4096 + 22 * 512) * 2 * 512
    assert work.cache_bytes(4096, "Q8_0") == pytest.approx(work.cache_bytes(4096) * 8.5 / 16)


def test_layers_that_convolve_keep_no_keys() -> None:
    work = work_of(header_from_config(Path("lfm2"), model_configs()["lfm2-350m"]))

    assert work.cached == {None: 6 * 2 * 8 * 128}


def test_a_short_convolution_is_as_long_as_stated() -> None:
    header = header_from_config(Path("lfm2"), LLAMA | LFM2)

    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert shapes["blk.0.shortconv.conv.weight"] == (4, 64)
    assert shapes["blk.1.ffn_up.weight"] == (64, 128)
    assert header.hyper("shortconv.l_cache") == 4


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"architectures": ["BertModel"]}, Unsupported, "BertModel"),
        ({"architectures": []}, InvalidCheckpoint, "no architecture"),
        ({"quantization_config": {"bits": 4}}, Unsupported, "quantized"),
        ({"hidden_size": None}, InvalidCheckpoint, "lacks hidden_size"),
        ({"hidden_size": -1}, InvalidCheckpoint, "hidden_size"),
        ({"num_hidden_layers": 10**9}, InvalidCheckpoint, "num_hidden_layers"),
        ({"vocab_size": True}, InvalidCheckpoint, "vocab_size"),
        (LFM2 | {"block_ffn_dim_multiplier": float("nan")}, InvalidCheckpoint, "multiplier"),
        (LFM2 | {"block_ffn_dim_multiplier": float("inf")}, InvalidCheckpoint, "multiplier"),
        (LFM2 | {"block_ffn_dim_multiplier": -1}, InvalidCheckpoint, "multiplier"),
        (LFM2 | {"block_ffn_dim_multiplier": "1"}, InvalidCheckpoint, "multiplier"),
        (LFM2 | {"block_multiple_of": -2}, InvalidCheckpoint, "multiple_of"),
        (LFM2 | {"conv_L_cache": 0}, InvalidCheckpoint, "conv_L_cache"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    change: dict[str, Any], error: type[EdgeslmError], says: str
) -> None:
    with pytest.raises(error, match=says):
        header_from_config(Path("config.json"), LLAMA | change)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, "{}"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)

    with pytest.raises(InvalidCheckpoint, match=r"config\.json"):
        header_of_config(path)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers()),
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on busy machines
@given(st.data())
@pytest.mark.parametrize("family", ["llama", "lfm2", "hybrid", "mixture", "gemma3"])
def test_whatever_a_configuration_holds_there_is_a_header_or_a_reason(
    family: str, data: st.DataObject
) -> None:
    config = (
        LLAMA
        | {
            "llama": {},
            "lfm2": LFM2,
            "hybrid": GRANITE_H_350M | {"num_local_experts": 4},
            "mixture": {"architectures": ["Qwen2MoeForCausalLM"], "num_experts": 8}
            | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
            | {"mlp_only_layers": [], "decoder_sparse_step": 1},
            "gemma3": {"architectures": ["Gemma3ForCausalLM"], "sliding_window": 512},
        }[family]
    )
    keys = [*config, "head_dim", "layer_types", "max_position_embeddings", "full_attn_idxs"]
    change = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, anything)))
    try:
        header = header_from_config(Path("config.json"), config | change)
    except EdgeslmError as error:
        assert error.message
    else:
        assert header.tensors


def test_the_models_of_the_rows_are_all_understood() -> None:
    assert json.dumps(model_configs())
    for name, config in model_configs().items():
        assert header_from_config(Path(name), config).tensors
    assert (data_directory() / "rows" / "models.toml").is_file()
