"""The memory plan against llama.cpp's own allocations and against measured processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidGGUF, InvalidOption
from edgeslm.estimate.cache import kv_bytes, layers
from edgeslm.estimate.memory import copied_bytes, plan_memory
from edgeslm.gguf.reader import Header, TensorInfo, read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.testing import tiny_gguf

SMOLLM2 = {
    "embedding_length": 576,
    "block_count": 30,
    "feed_forward_length": 1536,
    "attention.head_count": 9,
    "attention.head_count_kv": 3,
}
GEMMA3_270M = {
    "embedding_length": 640,
    "block_count": 18,
    "feed_forward_length": 2048,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.sliding_window": 512,
}


def model(architecture: str, hyper: dict[str, object], **sizes: int) -> Header:
    """A header with these hyperparameters; `sizes`: vocabulary, merges, weights, data_offset."""
    width = int(str(hyper.get("embedding_length", 1)))
    f16 = tensor_type("F16")
    shape = (width, sizes.get("vocabulary", 256))
    bytes_ = sizes.get("weights", 1000)
    return Header(
        path=Path("model.gguf"),
        version=3,
        metadata={
            "general.architecture": architecture,
            "tokenizer.ggml.merges": ("a b",) * sizes.get("merges", 0),
            **{f"{architecture}.{name}": value for name, value in hyper.items()},
        },
        metadata_types={},
        tensors=(TensorInfo("token_embd.weight", f16, shape, 0, bytes_),),
        data_offset=sizes.get("data_offset", 0),
        alignment=32,
        file_bytes=10**9,
    )


@pytest.mark.parametrize(
    ("context_length", "kv_type", "mebibytes"),
    [(2048, "F16", 45.0), (8192, "F16", 180.0), (512, "Q8_0", 5.98)],
)
def test_kv_of_smollm2_is_what_llama_cpp_prints(
    context_length: int, kv_type: str, mebibytes: float
) -> None:
    header = model("llama", SMOLLM2)

    planned = kv_bytes(header, context_length=context_length, kv_type=kv_type, ubatch=512)

    assert planned / 2**20 == pytest.approx(mebibytes, abs=0.01)


def test_sliding_layers_of_gemma_3_keep_their_window_only() -> None:
    header = model("gemma3", GEMMA3_270M)

    windows = [layer.window for layer in layers(header)]
    planned = kv_bytes(header, context_length=8192, kv_type="F16", ubatch=512)

    assert [index for index, window in enumerate(windows) if window is None] == [5, 11, 17]
    assert planned == (3 * 8192 + 15 * 1024) * 512 * 2


def test_a_short_context_is_shorter_than_the_window() -> None:
    header = model("gemma3", GEMMA3_270M)

    assert kv_bytes(header, context_length=256, kv_type="F16", ubatch=512) == 18 * 256 * 512 * 2


def test_a_pattern_in_the_file_is_followed() -> None:
    as_array = {**GEMMA3_270M, "attention.sliding_window_pattern": (True, False) * 9}
    as_number = {**GEMMA3_270M, "attention.sliding_window_pattern": 2}

    for hyper in (as_array, as_number):
        windows = [layer.window for layer in layers(model("gemma3", hyper))]
        assert windows == [512, None] * 9


def test_layers_may_differ_in_kv_heads() -> None:
    heads = (0, 4) * 15
    header = model("lfm2", {**SMOLLM2, "attention.head_count_kv": heads})

    planned = kv_bytes(header, context_length=256, kv_type="F16", ubatch=512)

    assert planned == 15 * 256 * 2 * (4 * 64) * 2


def test_windowed_layers_may_have_heads_of_their_own() -> None:
    lengths = {"attention.key_length_swa": 32, "attention.value_length_swa": 16}
    header = model("gemma3", {**GEMMA3_270M, **lengths})

    planned = kv_bytes(header, context_length=256, kv_type="F16", ubatch=512)

    assert planned == (15 * (32 + 16) + 3 * (256 + 256)) * 256 * 2


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("qwen3next", {}),
        ("qwen35", {"full_attention_interval": 4}),
        ("qwen35", {"attention.recurrent_layers": (1, 1, 1, 0) * 8}),
    ],
)
def test_recurrent_layers_keep_no_keys(architecture: str, more: dict[str, object]) -> None:
    kept = [layer.kv_heads for layer in layers(model(architecture, {**SMOLLM2, **more}))]

    assert kept == [0, 0, 0, 3] * 7 + [0, 0]


@pytest.mark.parametrize("architecture", ["mamba", "rwkv7"])
def test_a_model_without_attention_has_no_kv(architecture: str) -> None:
    sizes = {**SMOLLM2, "attention.head_count": 0, "attention.head_count_kv": 0}

    assert plan_memory(model(architecture, sizes), context_length=256).kv_bytes == 0


@pytest.mark.parametrize(
    ("architecture", "hyper", "numbers"),
    [
        ("lfm2", {"shortconv.l_cache": 3}, 576 * 2),
        ("rwkv7", {"wkv.head_size": 64}, 576 * (2 + 64)),
        (
            "mamba2",
            {
                "ssm.conv_kernel": 4,
                "ssm.inner_size": 1152,
                "ssm.state_size": 128,
                "ssm.group_count": 1,
            },
            3 * (1152 + 2 * 128) + 1152 * 128,
        ),
    ],
)
def test_states_take_the_same_for_any_context(
    architecture: str, hyper: dict[str, object], numbers: int
) -> None:
    header = model(architecture, {**SMOLLM2, "attention.head_count_kv": (0,) * 30, **hyper})

    for context_length in (256, 8192):
        assert kv_bytes(
            header, context_length=context_length, kv_type="F16", ubatch=512, sequences=3
        ) == (3 * 30 * 4 * numbers)


def test_falcon_h1_has_states_beside_its_keys() -> None:
    hyper = {"ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16}

    kept = layers(model("falcon-h1", {**SMOLLM2, **hyper}))

    assert all(layer.kv_heads == 3 and layer.state == 3 * 64 + 64 * 16 for layer in kept)


@pytest.mark.parametrize(
    ("architecture", "more", "windows"),
    [
        ("smallthinker", {}, [None, 4096, 4096, 4096] * 7 + [None, 4096]),
        ("gpt-oss", {}, [100, None] * 15),
        ("phi3", {}, [None] * 30),
        ("llama", {}, [None] * 30),
        ("gemma4", {"attention.sliding_window_pattern": (True, False) * 15}, [100, None] * 15),
    ],
)
def test_families_differ_in_which_layers_slide(
    architecture: str, more: dict[str, object], windows: list[int | None]
) -> None:
    header = model(architecture, {**SMOLLM2, "attention.sliding_window": 100, **more})

    assert [layer.window for layer in layers(header)] == windows


def test_layers_that_share_a_cache_count_once() -> None:
    header = model("gemma4", {**SMOLLM2, "attention.shared_kv_layers": 10})

    assert [layer.kv_heads for layer in layers(header)] == [3] * 20 + [0] * 10


def test_compressed_keys_stand_for_values_too() -> None:
    lengths = {"attention.key_length": 576, "attention.value_length": 512}
    mla = {"attention.key_length_mla": 192, "attention.head_count_kv": 1}
    header = model("deepseek2", {**SMOLLM2, **lengths, **mla})

    assert kv_bytes(header, context_length=256, kv_type="F16", ubatch=1) == 30 * 256 * 576 * 2


def test_layers_for_further_tokens_keep_nothing() -> None:
    assert len(layers(model("glm4moe", {**SMOLLM2, "nextn_predict_layers": 1}))) == 29


@pytest.mark.parametrize(("length", "slots"), [(4096, 4), (1000, 3)])
@pytest.mark.parametrize("architecture", ["gemma3", "lfm2", "granitehybrid", "deci"])
def test_the_parts_of_several_slots_equal_llama_cpps_allocation(
    tmp_path: Path, architecture: str, length: int, slots: int
) -> None:
    from edgeslm.llama.context import Context, ContextOptions
    from edgeslm.llama.model import Model

    path = tiny_gguf(
        tmp_path / "tiny.gguf",
        architecture=architecture,
        layers=7,
        width=128,
        heads=4,
        kv_heads=2,
        context_length=4096,
    )
    options = ContextOptions(
        length=length, batch=256, ubatch=128, threads=1, sequences=slots, outputs=slots
    )
    with Model(path) as loaded, Context(loaded, options) as context:
        allocated = context.buffer_bytes["kv"]

    planned = kv_bytes(
        read_header(path), context_length=length, kv_type="F16", ubatch=128, sequences=slots
    )

    assert planned == pytest.approx(allocated, abs=0.02 * 2**20)


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "gemma3", "lfm2", "granitehybrid", "deci"]
)
@pytest.mark.parametrize("kv_type", ["F16", "Q8_0"])
def test_kv_equals_llama_cpps_allocation(tmp_path: Path, architecture: str, kv_type: str) -> None:
    from edgeslm.llama.context import Context, ContextOptions
    from edgeslm.llama.model import Model

    path = tiny_gguf(
        tmp_path / "tiny.gguf", architecture=architecture, layers=7, width=128, context_length=4096
    )
    options = ContextOptions(length=3000, batch=256, ubatch=256, threads=1, kv_type=kv_type)
    with Model(path) as loaded, Context(loaded, options) as context:
        allocated = context.buffer_bytes["kv"]

    planned = kv_bytes(read_header(path), context_length=3000, kv_type=kv_type, ubatch=256)

    assert planned == pytest.approx(allocated, abs=0.02 * 2**20)


def test_copies_are_those_that_llama_cpp_makes_here(tmp_path: Path) -> None:
    from edgeslm import processor
    from edgeslm.llama.model import Model
    from edgeslm.profiling.synthetic import Shape, write_synthetic

    for kind in ("Q4_0", "Q4_1", "Q6_K", "IQ4_NL"):
        path = tmp_path / f"{kind}.gguf"
        write_synthetic(path, Shape(2, 512, 1024, 8, 4, 64), tensor_type(kind))
        with Model(path) as loaded:
            copied = loaded.buffer_bytes.get("weights", 0)

        assert copied_bytes(read_header(path), processor.features()) == pytest.approx(
            copied, abs=6000
        )


@pytest.mark.parametrize(
    ("features", "kind", "copied"),
    [
        ((), "Q4_0", False),
        (("asimd",), "Q4_0", False),
        (("asimd", "asimddp"), "Q4_0", True),
        (("asimd", "asimddp"), "Q8_0", True),
        (("avx2",), "Q4_0", True),
        (("avx2",), "Q8_0", False),
        (("avx2",), "Q4_1", False),
    ],
)
def test_copies_depend_on_the_processor(features: tuple[str, ...], kind: str, copied: bool) -> None:
    matrix = TensorInfo("blk.0.ffn_up.weight", tensor_type(kind), (576, 1536), 0, 1000)
    odd = TensorInfo("blk.0.ffn_down.weight", tensor_type(kind), (576, 1537), 0, 300)
    looked_up = TensorInfo("token_embd.weight", tensor_type(kind), (576, 1536), 0, 70)
    head = TensorInfo("output.weight", tensor_type("F16"), (576, 1536), 0, 5)
    untied = dataclasses.replace(model("llama", SMOLLM2), tensors=(matrix, odd, looked_up, head))
    tied = dataclasses.replace(untied, tensors=(matrix, odd, looked_up))

    assert copied_bytes(untied, features) == (1000 if copied else 0)
    assert copied_bytes(tied, features) == (1070 if copied else 0)


def test_copied_originals_are_resident_but_not_needed() -> None:
    header = model("llama", SMOLLM2)
    tensor = TensorInfo("output.weight", tensor_type("Q4_0"), (576, 1536), 0, 700)
    header = dataclasses.replace(header, tensors=(*header.tensors, tensor))

    plan = plan_memory(header, context_length=256, features=("avx2",))

    assert plan.copied_bytes == 700
    assert plan.total_bytes == plan.needed_bytes + 700
    assert plan.needed_bytes == plan_memory(header, context_length=256).total_bytes


MEASURED = [
    # VmHWM of processes that do what `edgeslm run` does, by scripts/bench_memory, less the 13.3 MB
    # of Gemma's tensors that llama.cpp copies on that processor.
    ("SmolLM2-135M Q4_1", 2048, 512, "F16", 235.3e6),
    ("SmolLM2-135M Q4_1", 2048, 32, "Q8_0", 198.9e6),
    ("SmolLM2-135M Q4_1", 512, 512, "F16", 196.8e6),
    ("SmolLM2-135M Q4_1", 512, 32, "Q8_0", 179.7e6),
    ("Gemma-3-270M Q4_K_M", 2048, 512, "F16", 393.9e6),
    ("Gemma-3-270M Q4_K_M", 2048, 32, "Q8_0", 362.7e6),
    ("Gemma-3-270M Q4_K_M", 512, 512, "F16", 377.2e6),
    ("Gemma-3-270M Q4_K_M", 512, 32, "Q8_0", 362.6e6),
]
MODELS = {
    "SmolLM2-135M Q4_1": model(
        "llama", SMOLLM2, vocabulary=49152, merges=48900, weights=96576768, data_offset=1785664
    ),
    "Gemma-3-270M Q4_K_M": model(
        "gemma3", GEMMA3_270M, vocabulary=262144, weights=246587904, data_offset=6525120
    ),
}


@pytest.mark.parametrize(("name", "context_length", "ubatch", "kv_type", "resident"), MEASURED)
def test_the_total_is_within_three_percent_of_a_measured_process(
    name: str, context_length: int, ubatch: int, kv_type: str, resident: float
) -> None:
    plan = plan_memory(MODELS[name], context_length=context_length, kv_type=kv_type, ubatch=ubatch)

    assert plan.total_bytes == pytest.approx(resident, rel=0.03)


def test_weights_are_the_tensors_bytes() -> None:
    assert plan_memory(
        model("llama", SMOLLM2, weights=12345), context_length=256
    ).weights_bytes == (12345)


@pytest.mark.parametrize("missing", ["block_count", "embedding_length", "attention.head_count"])
def test_a_missing_hyperparameter_is_named(missing: str) -> None:
    hyper = {name: value for name, value in SMOLLM2.items() if name != missing}

    with pytest.raises(InvalidGGUF, match=missing):
        plan_memory(model("llama", hyper), context_length=256)


def test_a_kv_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidOption, match="Q9_9"):
        plan_memory(model("llama", SMOLLM2), context_length=256, kv_type="Q9_9")


@given(
    architecture=st.sampled_from(["llama", "gemma2", "gemma3"]),
    context_length=st.integers(1, 100_000),
    ubatch=st.integers(1, 4096),
    kv_type=st.sampled_from(["F32", "F16", "Q8_0", "Q4_0"]),
    window=st.none() | st.integers(0, 10_000),
)
def test_more_context_never_takes_less(
    architecture: str, context_length: int, ubatch: int, kv_type: str, window: int | None
) -> None:
    hyper: dict[str, object] = {**SMOLLM2}
    if window is not None:
        hyper["attention.sliding_window"] = window
    header = model(architecture, hyper)

    small = plan_memory(header, context_length=context_length, kv_type=kv_type, ubatch=ubatch)
    large = plan_memory(
        header, context_length=context_length + 1000, kv_type=kv_type, ubatch=ubatch
    )

    assert 0 < small.kv_bytes <= large.kv_bytes
    assert 0 < small.compute_bytes <= large.compute_bytes
    assert small.weights_bytes == large.weights_bytes


_NAMES = (
    *SMOLLM2,
    *GEMMA3_270M,
    *("attention.sliding_window_pattern", "attention.recurrent_layers", "expert_used_count"),
    *("full_attention_interval", "shortconv.l_cache", "ssm.inner_size", "ssm.state_size"),
    *("ssm.group_count", "ssm.conv_kernel", "nextn_predict_layers", "wkv.head_size"),
    *("attention.shared_kv_layers", "expert_feed_forward_length", "kda.head_dim"),
)
_VALUES = st.one_of(
    st.integers(0, 2**64),
    st.floats(),
    st.text(max_size=3),
    st.booleans(),
    st.lists(st.one_of(st.integers(0, 2**32), st.floats(), st.text(max_size=2)), max_size=20).map(
        tuple
    ),
    st.just((4,) * 30),
    st.none(),
)


@given(
    st.sampled_from(["llama", "gemma3", "gemma4", "lfm2", "mamba2", "granitehybrid", "rwkv7"]),
    st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=4),
)
def test_whatever_a_header_says_there_is_a_plan_or_a_reason(
    family: str, damage: dict[str, object]
) -> None:
    sound = model(family, SMOLLM2)
    damaged = {f"{family}.{name}": value for name, value in damage.items()}
    header = dataclasses.replace(sound, metadata={**sound.metadata, **damaged})
    try:
        plan = plan_memory(header, context_length=512, ubatch=32, sequences=2, rows=16)
    except InvalidGGUF:
        return
    assert plan.total_bytes > 0
