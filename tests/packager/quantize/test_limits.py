"""Wishes become limits, by the arithmetic that predicts; what cannot be had is explained."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.estimate.memory import PROCESS_BYTES, plan_memory
from edgeslm.estimate.prediction import predict
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import TensorType, padded, tensor_type
from edgeslm.gguf.validation import read_model
from edgeslm.llama.quantizer import QuantizeOptions, quantizable_tensors, quantize_file
from edgeslm.packager.quantize.allocation import Candidate, Options
from edgeslm.packager.quantize.limits import Demands, demands_for, header_bytes
from edgeslm.packager.quantize.wishes import Wishes
from edgeslm.targets.loading import load_target
from edgeslm.targets.target import Target
from edgeslm.testing import tiny_gguf

TYPES = [tensor_type(name) for name in ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16")]
PI4 = dataclasses.replace(load_target("rpi4-4gb"), board="a board that nobody else measured")
HYPER = {
    "embedding_length": 576,
    "block_count": 30,
    "feed_forward_length": 1536,
    "attention.head_count": 9,
    "attention.head_count_kv": 3,
}


def tensor(name: str, *shape: int, kind: str = "F16") -> TensorInfo:
    type_ = tensor_type(kind)
    return TensorInfo(name, type_, shape, 0, type_.bytes_for(shape))


def smollm2(*more: TensorInfo) -> Header:
    """The sizes of SmolLM2-135M in F16, each layer's matrices as one; `more` beside them."""
    layers = [tensor(f"blk.{index}.weight", 576, 6150) for index in range(30)]
    return Header(
        path=Path("model.gguf"),
        version=3,
        metadata={
            "general.architecture": "llama",
            **{f"llama.{name}": value for name, value in HYPER.items()},
        },
        metadata_types={},
        tensors=(
            tensor("token_embd.weight", 576, 49152),
            tensor("output_norm.weight", 576, kind="F32"),
            *layers,
            *more,
        ),
        data_offset=1_800_000,
        alignment=32,
        file_bytes=10**9,
    )


TIED = smollm2()
UNTIED = smollm2(tensor("output.weight", 576, 49152))


MIXTURE = smollm2(
    *(tensor(f"blk.{index}.ffn_up_exps.weight", 576, 256, 8) for index in range(30)),
    tensor("per_layer_token_embd.weight", 256, 49152),
    tensor("output.weight", 576, 49152),
)
MIXTURE = dataclasses.replace(
    MIXTURE,
    metadata={**MIXTURE.metadata, "llama.expert_count": 8, "llama.expert_used_count": 2},
)


def options_of(header: Header, types: Sequence[TensorType] = TYPES) -> list[Options]:
    """Every matrix at every type, the later layers mattering more."""
    return [
        Options(
            item.name,
            tuple(
                Candidate(
                    kind,
                    kind.bytes_for(item.shape),
                    (1 + index % 7) * item.elements * 4.0**-kind.bits_per_weight,
                )
                for kind in types
                if kind.fits(item.shape)
            ),
        )
        for index, item in enumerate(header.tensors)
        if len(item.shape) > 1
    ]


def written(header: Header, demands: Demands, options: Sequence[Options]) -> Header:
    """The header of the file that the demands lead to."""
    chosen = {
        item.tensor: entry.type
        for item, entry in zip(options, demands.allocate(options).chosen, strict=True)
    }
    tensors = []
    for item in header.tensors:
        kind = chosen.get(item.name, item.type)
        tensors.append(dataclasses.replace(item, type=kind, bytes=kind.bytes_for(item.shape)))
    return dataclasses.replace(header, tensors=tuple(tensors))


def nearest(error: InvalidOption, option: str) -> str:
    """What the hint says to ask for."""
    found = re.search(rf"{option} (\S+) or (more|less)", error.hint or "")
    assert found, error.hint
    return found[1]


def to_bytes(text: str) -> int:
    factor = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1])
    return round(float(text[:-1]) * factor) if factor else int(text)


@settings(deadline=None, max_examples=40)
@given(
    speed=st.floats(15, 40),
    header=st.sampled_from([TIED, UNTIED]),
    context_length=st.sampled_from([256, 2048, 8192]),
    kv_type=st.sampled_from(["F16", "Q8_0"]),
    board=st.sampled_from(["rpi4-4gb", "rpi5-4gb", "orange-pi-5", "n100"]),
)
def test_what_is_made_for_a_speed_is_predicted_at_that_speed(
    speed: float, header: Header, context_length: int, kv_type: str, board: str
) -> None:
    target = load_target(board)
    wishes = Wishes(min_tokens_per_second=speed, context_length=context_length, kv_type=kv_type)
    options = options_of(header)
    try:
        made = written(header, demands_for(header, wishes, target), options)
    except InvalidOption:
        assume(False)
    predicted = predict(made, target, context_length=context_length, kv_type=kv_type)
    assert predicted.decode_tokens_per_second.value is not None
    assert predicted.decode_tokens_per_second.value >= speed


def test_a_speed_is_not_met_by_far_more_than_asked() -> None:
    for header in (TIED, UNTIED, MIXTURE):
        demands = demands_for(header, Wishes(min_tokens_per_second=25), PI4)
        predicted = predict(written(header, demands, options_of(header)), PI4)
        assert predicted.decode_tokens_per_second.value == pytest.approx(25, rel=1e-2)


@settings(deadline=None, max_examples=40)
@given(ram=st.integers(160_000_000, 500_000_000), context_length=st.sampled_from([256, 2048]))
def test_what_is_made_for_a_memory_is_planned_within_it(ram: int, context_length: int) -> None:
    wishes = Wishes(ram_bytes=ram, context_length=context_length, kv_type="Q8_0")
    try:
        made = written(TIED, demands_for(TIED, wishes), options_of(TIED))
    except InvalidOption:
        assume(False)
    plan = plan_memory(made, context_length=context_length, kv_type="Q8_0")
    assert plan.total_bytes <= ram
    if ram < 200_000_000:  # above it a step is from Q8_0 to F16
        assert plan.total_bytes > 0.99 * ram


def test_what_is_made_for_joules_is_predicted_at_them() -> None:
    demands = demands_for(TIED, Wishes(max_joules_per_token=0.25), PI4)
    made = written(TIED, demands, options_of(TIED))
    joules = predict(made, PI4).decode_joules_per_token.value
    assert joules is not None
    assert 0.247 < joules <= 0.25


def test_all_wishes_hold_together() -> None:
    wishes = Wishes(
        bits=7,
        size_bytes=120_000_000,
        ram_bytes=260_000_000,
        min_tokens_per_second=22,
        max_joules_per_token=0.3,
        context_length=1024,
    )
    made = written(TIED, demands_for(TIED, wishes, PI4), options_of(TIED))
    total = sum(item.bytes for item in made.tensors)
    assert total * 8 / sum(item.elements for item in made.tensors) <= 7
    assert made.data_offset + sum(padded(item.bytes, 32) for item in made.tensors) <= 120_000_000
    predicted = predict(made, PI4, context_length=1024)
    assert predicted.memory.total_bytes <= 260_000_000
    assert (predicted.decode_tokens_per_second.value or 0) >= 22
    assert (predicted.decode_joules_per_token.value or 9) <= 0.3


def test_a_file_that_is_really_written_keeps_the_limits(tmp_path: Path) -> None:
    """Through llama.cpp's quantizer; the target's figures make the tiny model slow."""
    source = tiny_gguf(tmp_path / "tiny.gguf", width=64, heads=2, feed_forward=128)
    header = read_model(source)
    names = quantizable_tensors(source)
    options = [item for item in options_of(header) if item.tensor in names]
    ram = PROCESS_BYTES + 9_000_000
    wishes = Wishes(
        size_bytes=95_000, min_tokens_per_second=20_000, ram_bytes=ram, context_length=256
    )
    allocation = demands_for(header, wishes, PI4).allocate(options)
    plan = tuple(
        (item.tensor, entry.type) for item, entry in zip(options, allocation.chosen, strict=True)
    )
    output = tmp_path / "made.gguf"
    quantize_file(
        source,
        output,
        QuantizeOptions("Q8_0", threads=1, allow_requantize=True, overrides=plan),
    )

    made = read_model(output)
    predicted = predict(made, PI4, context_length=256)
    assert 85_000 < output.stat().st_size <= 95_000
    assert 0 <= header_bytes(header) - made.data_offset <= 32
    assert predicted.memory.total_bytes <= ram
    assert (predicted.decode_tokens_per_second.value or 0) >= 20_000


def test_an_embedding_that_is_not_read_costs_no_time() -> None:
    demands = demands_for(UNTIED, Wishes(min_tokens_per_second=20), PI4)
    seconds = {
        item.tensor: item.candidates[0].seconds for item in demands.priced(options_of(UNTIED))
    }
    assert seconds["token_embd.weight"] == 0
    assert seconds["output.weight"] > 0
    tied = demands_for(TIED, Wishes(min_tokens_per_second=20), PI4)
    assert tied.priced(options_of(TIED))[0].candidates[0].seconds > 0


def test_what_a_token_reads_is_what_costs_time() -> None:
    """Two experts of eight, and no table that is looked up: whether its type is chosen or not."""
    demands = demands_for(MIXTURE, Wishes(min_tokens_per_second=20), PI4)
    options = options_of(MIXTURE)
    priced = {item.tensor: item.candidates[0] for item in demands.priced(options)}
    experts, layer = priced["blk.0.ffn_up_exps.weight"], priced["blk.0.weight"]
    assert priced["per_layer_token_embd.weight"].seconds == 0
    assert experts.seconds / experts.bytes == pytest.approx(layer.seconds / layer.bytes / 4)
    at_f16 = [
        Options(item.tensor, tuple(kind for kind in item.candidates if kind.type.name == "F16"))
        for item in options
    ]
    chosen = sum(item.candidates[0].seconds for item in demands.priced(at_f16))
    left = demands.limits(at_f16).seconds, demands.limits([]).seconds
    assert (left[0] or 0) - chosen == pytest.approx(left[1])


def test_the_message_about_a_mixture_s_speed_says_what_a_token_reads() -> None:
    read = sum(
        round(item.candidates[0].bytes * (0.25 if "_exps" in item.tensor else 1))
        for item in options_of(MIXTURE, [tensor_type("Q4_0")])
        if item.tensor not in ("token_embd.weight", "per_layer_token_embd.weight")
    )
    with pytest.raises(InvalidOption, match=f"reads {read / 1e6:.1f} MB"):
        demands_for(MIXTURE, Wishes(min_tokens_per_second=500), PI4).allocate(
            options_of(MIXTURE, [tensor_type("Q4_0")])
        )


def test_the_context_s_cache_costs_time_and_memory() -> None:
    for wish in (Wishes(min_tokens_per_second=20), Wishes(ram_bytes=300_000_000)):
        short, long = (
            demands_for(TIED, dataclasses.replace(wish, context_length=length), PI4).limits(
                options_of(TIED)
            )
            for length in (256, 4096)
        )
        assert (long.bytes or 0) < (short.bytes or 1)
        assert (long.seconds or 0) <= (short.seconds or 0)
        assert long != short


IMPOSSIBLE = [
    (Wishes(bits=2), None, "--bits"),
    (Wishes(size_bytes=50_000_000), None, "--size"),
    (Wishes(ram_bytes=150_000_000, context_length=1024), None, "--ram"),
    (Wishes(ram_bytes=1_000_000), None, "--ram"),
    (Wishes(min_tokens_per_second=500), PI4, "--min-tps"),
    (Wishes(min_tokens_per_second=12), load_target("rpi-zero-2w"), "--min-tps"),
    (Wishes(min_tokens_per_second=1e9), PI4, "--min-tps"),
    (Wishes(max_joules_per_token=0.01), PI4, "--max-joules-per-token"),
]
FIELDS = {
    "--bits": "bits",
    "--size": "size_bytes",
    "--ram": "ram_bytes",
    "--min-tps": "min_tokens_per_second",
    "--max-joules-per-token": "max_joules_per_token",
}


def asked(wishes: Wishes, error: InvalidOption, option: str) -> Wishes:
    """The wishes with what the hint says."""
    text = nearest(error, option)
    value = to_bytes(text) if option in ("--size", "--ram") else float(text)
    return dataclasses.replace(wishes, **{FIELDS[option]: value})


@pytest.mark.parametrize(("wishes", "target", "option"), IMPOSSIBLE)
def test_the_nearest_that_can_be_had_is_named_and_can_be_had(
    wishes: Wishes, target: Target | None, option: str
) -> None:
    options = options_of(TIED)
    with pytest.raises(InvalidOption) as caught:
        demands_for(TIED, wishes, target).refuse_impossible(options)

    error = caught.value
    assert "model.gguf" in error.message
    assert "\n" not in error.message + str(error.hint)
    other = asked(wishes, error, option)
    demands_for(TIED, other, target).allocate(options)
    harder = getattr(other, FIELDS[option]) * (1.01 if option == "--min-tps" else 0.99)
    with pytest.raises(InvalidOption):
        again = dataclasses.replace(other, **{FIELDS[option]: type(harder)(harder)})
        demands_for(TIED, again, target).allocate(options)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(bits=2, size_bytes=50_000_000),
        Wishes(size_bytes=50_000_000, ram_bytes=150_000_000, context_length=1024),
        Wishes(bits=2, min_tokens_per_second=500),
        Wishes(min_tokens_per_second=500, max_joules_per_token=0.01),
        Wishes(bits=2, size_bytes=50_000_000, min_tokens_per_second=500, max_joules_per_token=0.01),
        Wishes(bits=8, min_tokens_per_second=500),
    ],
)
def test_all_that_cannot_be_had_is_named_at_once(wishes: Wishes) -> None:
    options = options_of(TIED)
    with pytest.raises(InvalidOption) as caught:
        demands_for(TIED, wishes, PI4).refuse_impossible(options)
    named = [option for option in FIELDS if f"{option} " in str(caught.value.hint)]
    other = wishes
    for option in named:
        other = asked(other, caught.value, option)
    assert named
    demands_for(TIED, other, PI4).allocate(options)


def test_the_message_about_a_speed_says_what_is_read() -> None:
    zero = load_target("rpi-zero-2w")
    with pytest.raises(InvalidOption) as caught:
        demands_for(TIED, Wishes(min_tokens_per_second=12), zero).allocate(options_of(TIED))
    assert "12 tokens/s on rpi-zero-2w leaves 83.3 ms" in caught.value.message
    assert "reads 75.7 MB" in caught.value.message


@pytest.mark.parametrize("option", ["--size", "--min-tps"])
def test_two_that_exclude_each_other(option: str) -> None:
    """IQ4_NL is small and slow here, Q8_0 large and fast."""
    slow = dataclasses.replace(
        PI4,
        kernels={
            "IQ4_NL": dataclasses.replace(
                PI4.kernels["IQ4_NL"],
                decode_gigabytes_per_second=dataclasses.replace(
                    PI4.kernels["IQ4_NL"].decode_gigabytes_per_second, value=1.0
                ),
            )
        },
    )
    options = options_of(TIED, [tensor_type("IQ4_NL"), tensor_type("Q8_0")])
    wishes = Wishes(size_bytes=100_000_000, min_tokens_per_second=18)
    with pytest.raises(InvalidOption) as caught:
        demands_for(TIED, wishes, slow).allocate(options)
    assert "exclude each other" in caught.value.message
    demands_for(TIED, asked(wishes, caught.value, option), slow).allocate(options)


def test_a_target_without_the_figure_says_so() -> None:
    with pytest.raises(InvalidOption, match=r"power\.load_watts"):
        demands_for(TIED, Wishes(max_joules_per_token=1), load_target("rpi-zero-2w"))
    blind = dataclasses.replace(
        PI4,
        kernels={},
        memory=dataclasses.replace(
            PI4.memory, decode_gigabytes_per_second=load_target("apple-m1").power.idle_watts
        ),
    )
    with pytest.raises(InvalidOption, match="decode bandwidth"):
        demands_for(TIED, Wishes(min_tokens_per_second=5), blind).allocate(options_of(TIED))


def test_types_whose_speed_is_unknown_are_left_out_where_speed_counts() -> None:
    unknown = load_target("apple-m1").power.idle_watts
    assert unknown.value is None
    target = dataclasses.replace(
        PI4, memory=dataclasses.replace(PI4.memory, decode_gigabytes_per_second=unknown)
    )
    header = dataclasses.replace(
        TIED, tensors=tuple(item for item in TIED.tensors if len(item.shape) > 1)
    )
    by_speed = demands_for(header, Wishes(min_tokens_per_second=20), target)
    by_size = demands_for(header, Wishes(size_bytes=10**8), target)
    names = {entry.type.name for entry in by_speed.priced(options_of(header))[0].candidates}
    assert names == {"Q4_0", "IQ4_NL", "Q8_0", "F16"}
    assert len(by_size.priced(options_of(header))[0].candidates) == len(TYPES)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(), "nothing says"),
        (Wishes(context_length=2048), "nothing says"),
        (Wishes(min_tokens_per_second=5), "the board"),
        (Wishes(max_joules_per_token=5), "the board"),
        (Wishes(bits=float("nan")), "--bits nan"),
        (Wishes(ram_bytes=-5), "--ram -5"),
        (Wishes(bits=4, context_length=0), "context of 0"),
        (Wishes(ram_bytes=10**9, kv_type="Q9"), "not a type for the KV cache"),
    ],
)
def test_nonsense_is_refused(wishes: Wishes, words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as caught:
        demands_for(TIED, wishes)
    assert caught.value.hint


def test_more_than_the_memory_that_is_free_is_warned_about() -> None:
    zero = load_target("rpi-zero-2w")
    options = options_of(TIED)
    for size, warned in ((240_000_000, True), (90_000_000, False)):
        demands = demands_for(TIED, Wishes(size_bytes=size), zero)
        warnings = demands.warnings(options, demands.allocate(options))
        assert bool(warnings) == warned, size
    for ram, warned in ((600_000_000, True), (280_000_000, False)):
        limited = demands_for(TIED, Wishes(ram_bytes=ram), zero)
        assert bool(limited.warnings(options, limited.allocate(options))) == warned, ram
