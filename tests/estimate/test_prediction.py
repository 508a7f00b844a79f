"""Speed and energy follow from bytes, weights and the target's figures, and say so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.estimate.prediction import predict
from edgeslm.estimate.speed import decode_tokens_per_second, prefill_tokens_per_second
from edgeslm.estimate.work import bytes_read_per_token
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import tensor_type
from edgeslm.records import UNKNOWN, Figure, Provenance, to_json
from edgeslm.targets.loading import list_targets, load_target
from edgeslm.targets.target import Kernel, Overhead, Target


def figure(value: float) -> Figure:
    return Figure(value, Provenance.MEASURED, "a test")


def tensor(name: str, kind: str, *shape: int) -> TensorInfo:
    type_ = tensor_type(kind)
    return TensorInfo(name, type_, shape, 0, type_.bytes_for(shape))


EMBEDDING = tensor("token_embd.weight", "Q8_0", 1024, 32000)
HEAD = tensor("output.weight", "Q8_0", 1024, 32000)
BODY = (
    tensor("blk.0.attn_q.weight", "Q4_K", 1024, 1024),
    tensor("blk.0.ffn_up.weight", "Q6_K", 1024, 4096),
    tensor("blk.0.attn_norm.weight", "F32", 1024),
)


def header(*tensors: TensorInfo) -> Header:
    hyper = {
        "embedding_length": 1024,
        "block_count": 1,
        "feed_forward_length": 4096,
        "attention.head_count": 16,
        "attention.head_count_kv": 4,
    }
    return Header(
        path=Path("model.gguf"),
        version=3,
        metadata={
            "general.architecture": "llama",
            **{f"llama.{name}": value for name, value in hyper.items()},
        },
        metadata_types={},
        tensors=tensors,
        data_offset=0,
        alignment=32,
        file_bytes=10**9,
    )


def board(**changes: object) -> Target:
    """The Pi 4 with round numbers: 2 GB/s (Q6_K: 1), 10 GFLOP/s (Q6_K: 5), 6 W."""
    target = load_target("rpi4-4gb")
    round_numbers = dataclasses.replace(
        target,
        memory=dataclasses.replace(target.memory, decode_gigabytes_per_second=figure(2)),
        kernels=MappingProxyType({"Q6_K": Kernel(figure(1), figure(5))}),
        prefill_gigaflops=figure(10),
        power=dataclasses.replace(target.power, load_watts=figure(6)),
    )
    return dataclasses.replace(round_numbers, **changes)


def test_a_tied_embedding_is_read_as_the_head() -> None:
    tied = bytes_read_per_token(header(EMBEDDING, *BODY))
    untied = bytes_read_per_token(header(EMBEDDING, HEAD, *BODY))

    assert tied == untied
    assert tied["Q8_0"] == EMBEDDING.bytes


def test_an_untied_embedding_is_looked_up_and_not_read() -> None:
    assert sum(bytes_read_per_token(header(EMBEDDING, HEAD, *BODY)).values()) == sum(
        item.bytes for item in (HEAD, *BODY)
    )


def test_decode_is_bytes_over_bandwidth_type_by_type() -> None:
    predicted = decode_tokens_per_second(header(EMBEDDING, *BODY), board(), context_length=2048)

    cache = 1024 * 2 * (4 * 64) * 2
    at_two = EMBEDDING.bytes + BODY[0].bytes + BODY[2].bytes + cache
    assert predicted.value == pytest.approx(1 / (at_two / 2e9 + BODY[1].bytes / 1e9))
    assert predicted.provenance is Provenance.ESTIMATED
    assert "2 GB/s (a test)" in str(predicted.source)
    assert "rpi4-4gb" in str(predicted.source)


def test_overhead_and_the_cache_s_own_rate_count_where_the_target_states_them() -> None:
    model = header(EMBEDDING, *BODY)
    plain = decode_tokens_per_second(model, board(), context_length=2048).value
    slow = board(
        overhead=Overhead(token_seconds=figure(0.003), layer_seconds=figure(0.002)),
        caches={"F16": figure(0.5)},
    )
    predicted = decode_tokens_per_second(model, slow, context_length=2048)

    assert plain is not None
    assert predicted.value is not None
    cache = 1024 * 2 * (4 * 64) * 2
    more = 0.003 + 1 * 0.002 + cache / 0.5e9 - cache / 2e9
    assert 1 / predicted.value == pytest.approx(1 / plain + more)
    assert "overhead 5 ms (a test)" in str(predicted.source)
    other = decode_tokens_per_second(model, slow, context_length=2048, kv_type="Q8_0").value
    assert other is not None
    assert other > predicted.value


def test_prefill_is_two_flop_per_weight_outside_embedding_and_head() -> None:
    for tensors in ((EMBEDDING, *BODY), (EMBEDDING, HEAD, *BODY)):
        predicted = prefill_tokens_per_second(header(*tensors), board())

        seconds = 2 * BODY[0].elements / 10e9 + 2 * BODY[1].elements / 5e9
        assert predicted.value == pytest.approx(1 / seconds)
        assert predicted.provenance is Provenance.ESTIMATED


def test_energy_is_watts_over_speed() -> None:
    prediction = predict(header(EMBEDDING, *BODY), board())

    speed = prediction.decode_tokens_per_second.value
    assert speed is not None
    assert prediction.decode_joules_per_token.value == pytest.approx(6 / speed)
    assert "6 W" in str(prediction.decode_joules_per_token.source)


def test_what_the_target_lacks_is_unknown_with_the_reason() -> None:
    target = board(prefill_gigaflops=UNKNOWN, power=load_target("rpi-zero-2w").power)
    memory = dataclasses.replace(target.memory, decode_gigabytes_per_second=UNKNOWN)

    slow = predict(header(EMBEDDING, *BODY), target)
    slowest = predict(header(EMBEDDING, *BODY), dataclasses.replace(target, memory=memory))

    assert slow.prefill_tokens_per_second.value is None
    assert "prefill GFLOP/s" in str(slow.prefill_tokens_per_second.source)
    assert slow.decode_joules_per_token.value is None
    assert "power.load_watts" in str(slow.decode_joules_per_token.source)
    assert slowest.decode_tokens_per_second.value is None
    assert "decode bandwidth" in str(slowest.decode_tokens_per_second.source)
    assert slowest.decode_tokens_per_second.provenance is None


def test_fits_compares_the_plan_with_what_is_free() -> None:
    small, large = header(EMBEDDING, *BODY), header(tensor("token_embd.weight", "F32", 2048, 10**6))

    assert predict(small, load_target("rpi-zero-2w")).fits is True
    assert predict(
        dataclasses.replace(large, metadata=small.metadata), load_target("rpi4-4gb")
    ).fits is (False)


def test_fits_is_open_where_the_system_s_need_is_unknown() -> None:
    huge = header(tensor("token_embd.weight", "F32", 2**16, 2**16))

    assert predict(header(EMBEDDING, *BODY), load_target("apple-m1")).fits is None
    assert predict(huge, load_target("apple-m1")).fits is False


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidOption, match="at least one token"):
        predict(header(EMBEDDING, *BODY), board(), context_length=0)


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.id)
def test_every_shipped_target_gives_a_prediction_that_is_json(target: Target) -> None:
    prediction = predict(header(EMBEDDING, *BODY), target)

    document = json.loads(json.dumps(to_json(prediction)))
    assert document["target"] == target.id
    for name in ("prefill_tokens_per_second", "decode_tokens_per_second"):
        assert document[name]["source"]


def test_raspberry_pi_4_as_published() -> None:
    """Qwen2.5-0.5B, not among the rows the figures come from (sensura-san/llm-bench)."""
    published = {"Q8_0": 6.78, "Q4_0": 9.84, "F16": 3.66}
    for kind, tokens_per_second in published.items():
        body = tensor("blk.0.weight", kind, 896, 399408)
        head = tensor("output.weight", "Q8_0" if kind == "Q4_0" else kind, 896, 151936)
        embedding = tensor("token_embd.weight", kind, 896, 151936)

        predicted = decode_tokens_per_second(
            header(embedding, head, body), load_target("rpi4"), context_length=128
        )

        assert predicted.value == pytest.approx(tokens_per_second, rel=0.1), kind


def test_raspberry_pi_zero_2_w_as_published() -> None:
    """SmolLM-360M as llama-quantize makes Q4_K_M of it: rows of 960 fit no K type."""
    wide, narrow = 960 * (960 + 960 + 320 + 2 * 2560), 960 * 320
    smollm = header(
        tensor("token_embd.weight", "Q8_0", 960, 49152),
        tensor("blk.0.most", "Q5_0", 32, wide),  # for each of 32 layers
        tensor("blk.0.v", "Q8_0", 32, narrow // 2),  # for the half of them with wider types
        tensor("blk.1.v", "Q5_0", 32, narrow // 2),
        tensor("blk.0.down", "Q6_K", 2560, 960 * 16),
        tensor("blk.1.down", "Q4_K", 2560, 960 * 16),
    )

    predicted = decode_tokens_per_second(smollm, load_target("rpi-zero-2w"), context_length=1)

    assert predicted.value == pytest.approx(2.6, rel=0.2)  # from another engine, so doubted


def test_the_target_s_defaults_are_planned_for() -> None:
    target = load_target("rpi-zero-2w")
    model = header(EMBEDDING, *BODY)

    assert predict(model, target) == predict(model, target, context_length=1024, kv_type="Q8_0")
    assert predict(model, target, context_length=100).context_length == 100


@given(
    context_length=st.integers(1, 100_000), kv_type=st.sampled_from(["F32", "F16", "Q8_0", "Q4_0"])
)
def test_a_longer_context_is_never_faster(context_length: int, kv_type: str) -> None:
    model = header(EMBEDDING, *BODY)
    near = decode_tokens_per_second(
        model, board(), context_length=context_length, kv_type=kv_type
    ).value
    far = decode_tokens_per_second(
        model, board(), context_length=context_length + 1000, kv_type=kv_type
    ).value

    assert near is not None
    assert far is not None
    assert far <= near
