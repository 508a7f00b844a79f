"""What a fit promises: known boards come out as measured, unknown ones with their uncertainty."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.estimate import speed_model
from edgeslm.estimate.fit import FitOptions, fit
from edgeslm.estimate.mixes import as_file_type
from edgeslm.estimate.physics import machine_of
from edgeslm.estimate.rows import all_rows, model_configs
from edgeslm.estimate.shapes import header_from_config
from edgeslm.estimate.speed import decode_tokens_per_second, prefill_tokens_per_second
from edgeslm.estimate.speed_model import (
    fit_rows,
    fitted,
    predicted,
    rests_on_rows,
    rows_digest,
    targets_of,
)
from edgeslm.gguf.reader import Header
from edgeslm.records import UNKNOWN, Figure, Provenance
from edgeslm.targets.loading import data_directory, list_targets, load_target
from edgeslm.targets.target import Target


def model(name: str = "llama-3.2-1b", label: str = "Q4_K_M") -> Header:
    return as_file_type(header_from_config(Path(name), model_configs()[name]), label)


def test_the_shipped_fit_is_that_of_the_shipped_rows() -> None:
    """After a change of rows or physics: scripts/bench_predict --write."""
    content = json.loads((data_directory() / "rows" / "fitted.json").read_text())
    rows = all_rows()

    again = fit_rows(rows, targets_of(rows))

    assert content["rows"] == rows_digest()
    assert content["sources"] == again.sources
    assert content["decode"]["mean"] == pytest.approx(again.decode.mean.tolist(), abs=1e-3)
    assert content["prefill"]["mean"] == pytest.approx(again.prefill.mean.tolist(), abs=1e-3)


def test_rows_of_boards_that_nobody_knows_here_are_left_out() -> None:
    rows = all_rows()[:6]
    strange = dataclasses.replace(rows[0], target="somebody-s-own")

    found = fit_rows((*rows, strange), targets_of((*rows, strange)))

    assert sum(sum(each.values()) for each in found.sources.values()) == 6


def test_rows_never_name_a_file_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (data_directory() / "rpi4.toml").read_text()
    (tmp_path / "rpi4.toml").write_text(text.replace("value = 1800", "value = 9000"))
    (tmp_path / "mine.toml").write_text(text.replace('id = "rpi4"', 'id = "mine"'))
    monkeypatch.setenv("EDGESLM_TARGETS", str(tmp_path))
    names = ("rpi4", "rpi4-8gb", "mine", str(tmp_path / "mine.toml"), "missing")
    rows = [dataclasses.replace(all_rows()[0], target=name) for name in names]

    found = targets_of(rows)

    assert set(found) == {"rpi4", "rpi4-8gb"}
    assert found["rpi4"].cores[0].megahertz.value != 9000
    assert load_target("rpi4") != found["rpi4"]


def test_the_fit_is_made_anew_after_a_change_of_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_digest()
    folder = tmp_path / "targets"
    shutil.copytree(data_directory(), folder)
    monkeypatch.setattr("edgeslm.estimate.speed_model.data_directory", lambda: folder)
    assert rows_digest() == before

    with (folder / "rpi4.toml").open("a") as file:
        file.write("# another clock\n")

    assert rows_digest() != before


def test_every_module_that_the_fit_uses_is_in_its_digest() -> None:
    folder = Path(speed_model.__file__).parent
    used: set[str] = set()
    left = {"speed_model"}
    while left:
        name = left.pop()
        used.add(name)
        text = (folder / f"{name}.py").read_text()
        left |= set(re.findall(r"^from edgeslm\.estimate\.(\w+) import", text, re.M)) - used

    assert used == set(speed_model._MODULES)


@pytest.mark.parametrize(
    ("phase", "median", "rarely"), [("decode", 0.06, 0.18), ("prefill", 0.05, 0.4)]
)
def test_models_that_were_left_out_are_predicted(phase: str, median: float, rarely: float) -> None:
    """The bounds are a little above what docs/fit.md says of all models."""
    rows = all_rows()
    targets = targets_of(rows)
    errors = []
    inside = []
    for left_out in ("gemma-3-1b", "llama-3.2-1b", "qwen2.5-0.5b", "phi-4-mini"):
        found = fit_rows([row for row in rows if row.model != left_out], targets)
        for row in rows:
            measured = getattr(row, phase)
            if row.model == left_out and measured:
                value, low, high = predicted(found, row, phase, targets[row.target])
                errors.append(abs(value / measured - 1))
                inside.append(low <= measured <= high)

    assert statistics.median(errors) <= median
    assert statistics.quantiles(errors, n=10)[-1] <= rarely
    assert 0.85 <= sum(inside) / len(inside) < 1


def test_a_board_is_predicted_as_it_was_measured() -> None:
    (result,) = fit(model(), [load_target("rpi4")], FitOptions(context_length=128))

    assert result.fits is True
    assert result.rows and result.provenance is Provenance.ESTIMATED
    assert result.decode_tokens_per_second and result.prefill_tokens_per_second
    assert result.decode_tokens_per_second.value == pytest.approx(4.469, rel=0.05)
    assert result.prefill_tokens_per_second.value == pytest.approx(11.86, rel=0.05)
    low, high = result.decode_tokens_per_second[1:]
    assert low < result.decode_tokens_per_second.value < high < 1.7 * low


def test_a_prediction_says_how_many_rows_have_its_types() -> None:
    known, new, gpu = (
        fit(model(label=label), [load_target(board)], FitOptions())[0]
        for label, board in (("Q4_K_M", "rpi4"), ("TQ2_0", "rpi4"), ("Q4_K_M", "jetson-orin-nano"))
    )
    rows = [row for row in all_rows() if row.target.startswith(("rpi4", "rpi3", "rpi-zero"))]
    sixes = [row for row in rows if row.label in ("Q6_K", "Q4_K_M", "Q5_K_M")]

    assert list(known.rows_by_type) == ["Q4_K", "Q6_K"]
    assert len(sixes) <= known.rows_by_type["Q6_K"] <= len(rows)
    assert "guessed" not in known.supported_by
    assert new.rows_by_type["TQ2_0"] == 0
    assert "nobody measured TQ2_0 on neon cores" in new.supported_by
    assert spread(new.decode_tokens_per_second) > 1.2 * spread(known.decode_tokens_per_second)
    assert 0 < gpu.rows_by_type["Q4_K"] < known.rows_by_type["Q4_K"]
    alone = decode_tokens_per_second(model(label="TQ2_0"), load_target("rpi4"))
    assert "none with TQ2_0 on neon cores" in alone.source


def test_more_threads_than_fast_cores_are_predicted_as_they_were_measured() -> None:
    header = model("phi-3-mini", "IQ4_XS")
    board = [load_target("orange-pi-5")]

    (four,) = fit(header, board, FitOptions(context_length=128))
    (eight,) = fit(header, board, FitOptions(context_length=128, threads=8))

    assert four.decode_tokens_per_second and eight.decode_tokens_per_second
    assert four.decode_tokens_per_second.value == pytest.approx(6.92, rel=0.1)
    assert eight.decode_tokens_per_second.value == pytest.approx(3.84, rel=0.1)


def test_a_default_of_more_threads_than_fast_cores_rests_on_the_rows_of_all_cores() -> None:
    laptop = load_target("laptop-x86")

    assert machine_of(laptop) == dataclasses.replace(machine_of(laptop, cores="all"), threads=8)
    assert machine_of(laptop).setting == "all x8"
    assert machine_of(laptop, threads=6).setting == "fastest x6"


def test_a_long_context_is_slower_and_larger() -> None:
    target = [load_target("rpi5")]
    (short,) = fit(model(), target, FitOptions(context_length=256))
    (long,) = fit(model(), target, FitOptions(context_length=8192))

    assert short.decode_tokens_per_second and long.decode_tokens_per_second
    assert long.decode_tokens_per_second.value < 0.8 * short.decode_tokens_per_second.value
    assert long.peak_memory_bytes > short.peak_memory_bytes + 100e6


def test_a_board_that_nobody_measured_is_less_certain() -> None:
    board = dataclasses.replace(load_target("rpi4"), board="new", id="new", kernels={})

    known, new = fit(model(), [load_target("rpi4"), board], FitOptions())

    assert known.decode_tokens_per_second and new.decode_tokens_per_second
    assert spread(new.decode_tokens_per_second) > 1.3 * spread(known.decode_tokens_per_second)
    assert "no measured row" in new.supported_by


@pytest.mark.parametrize("base", ["rpi4", "apple-m1"])
def test_a_board_of_one_s_own_is_judged_by_its_data_sheet(base: str) -> None:
    board = dataclasses.replace(load_target(base), board="new", id="new", kernels={})
    nominal = Figure(6.0, Provenance.PUBLISHED, "a data sheet")

    slow, fast = fit(
        model(),
        [
            with_memory(board, nominal_gigabytes_per_second=nominal),
            with_memory(board, nominal_gigabytes_per_second=dataclasses.replace(nominal, value=12)),
        ],
        FitOptions(),
    )

    assert slow.decode_tokens_per_second and fast.decode_tokens_per_second
    ratio = fast.decode_tokens_per_second.value / slow.decode_tokens_per_second.value
    assert 1.3 < ratio <= 2


@pytest.mark.parametrize(("base", "share"), [("rpi4", 0.5), ("apple-m1", 0.75)])
def test_what_decode_reaches_is_worth_the_nominal_bandwidth_it_is_a_share_of(
    base: str, share: float
) -> None:
    board = dataclasses.replace(load_target(base), board="new", id="new", kernels={})
    reached = Figure(6.0, Provenance.PUBLISHED, "a benchmark")
    nominal = dataclasses.replace(reached, value=6.0 / share)

    by_reached, by_nominal = fit(
        model(),
        [
            with_memory(
                board,
                nominal_gigabytes_per_second=UNKNOWN,
                decode_gigabytes_per_second=reached,
            ),
            with_memory(board, nominal_gigabytes_per_second=nominal),
        ],
        FitOptions(),
    )

    assert by_reached.decode_tokens_per_second == by_nominal.decode_tokens_per_second


def test_a_calibrated_target_speaks_for_itself() -> None:
    target = load_target("rpi4")
    measured = Figure(2.0, Provenance.MEASURED, "here")
    kernels = {
        name: dataclasses.replace(kernel, decode_gigabytes_per_second=measured)
        for name, kernel in target.kernels.items()
    }
    partly = dataclasses.replace(target, kernels=kernels)
    own = dataclasses.replace(
        with_memory(partly, decode_gigabytes_per_second=measured), prefill_gigaflops=measured
    )
    whole = dataclasses.replace(
        own,
        kernels={
            name: dataclasses.replace(kernel, prefill_gigaflops=UNKNOWN)
            for name, kernel in kernels.items()
        },
    )

    options = FitOptions(context_length=128, threads=2)
    unsure, mixed, result = fit(model(), [partly, own, whole], options)

    assert not rests_on_rows(own)
    assert [each.provenance.value for each in (unsure, mixed, result)] == [
        "estimated",
        "estimated",
        "calibrated",
    ]
    expected = decode_tokens_per_second(model(), own, context_length=128).value
    for each in (mixed, result):
        assert each.decode_tokens_per_second
        assert each.decode_tokens_per_second == pytest.approx(
            (expected, expected / 1.13, expected * 1.13)
        )
    assert unsure.decode_tokens_per_second
    assert spread(unsure.decode_tokens_per_second) == pytest.approx(1.26**2)
    assert "prefill not all measured" in mixed.supported_by
    assert result.prefill_tokens_per_second
    value, low, high = result.prefill_tokens_per_second
    assert (low, high) == pytest.approx((value / 1.18, value))
    assert result.threads == 4
    assert result.notes == ("rpi4-4gb was measured with 4 threads, which is what is predicted",)


def test_threads_that_a_board_has_no_cores_for_are_not_predicted() -> None:
    boards = [load_target("rpi4"), load_target("orange-pi-5"), load_target("apple-m1")]

    few, many, gpu = fit(model(), boards, FitOptions(threads=8))
    (usual,) = fit(model(), boards[:1], FitOptions())

    assert (few.threads, many.threads, gpu.threads) == (4, 8, machine_of(boards[2]).threads)
    assert few.decode_tokens_per_second == usual.decode_tokens_per_second
    assert few.notes == ("rpi4-4gb has 4 cores, so 4 threads are predicted",)
    assert many.notes == usual.notes == ()
    assert "graphics" in gpu.notes[0]


@pytest.mark.parametrize(
    "options",
    [
        FitOptions(threads=0),
        FitOptions(threads=-1),
        FitOptions(prompts=(0,)),
        FitOptions(battery_watt_hours=math.inf),
        FitOptions(battery_watt_hours=math.nan),
        FitOptions(battery_watt_hours=0),
    ],
)
def test_what_makes_no_sense_is_refused(options: FitOptions) -> None:
    with pytest.raises(InvalidOption) as caught:
        fit(model(), [load_target("rpi5")], options)

    assert caught.value.hint


MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 512,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    "header", [model(), as_file_type(header_from_config(Path("mixture"), MIXTURE), "Q4_K_M")]
)
def test_the_prediction_of_one_speed_and_the_fit_agree(header: Header) -> None:
    options = FitOptions(context_length=1024, kv_type="F16")
    for target in filter(rests_on_rows, list_targets()):
        (result,) = fit(header, [target], options)
        usual = dataclasses.replace(options, threads=result.threads)

        decode = decode_tokens_per_second(header, target, context_length=1024, kv_type="F16")
        prefill = prefill_tokens_per_second(header, target)

        assert result.decode_tokens_per_second and result.prefill_tokens_per_second
        assert decode.value == pytest.approx(result.decode_tokens_per_second.value, rel=1e-3)
        assert prefill.value == pytest.approx(result.prefill_tokens_per_second.value, rel=1e-6)
        assert fit(header, [target], usual) == (result,)


def test_fewer_threads_are_predicted_as_they_were_measured() -> None:
    """Qwen2.5 1.5B on a Raspberry Pi 5: 11.19 tokens/s with two threads, 8.22 with four."""
    config = model_configs()["qwen2.5-1.5b"] | {"tie_word_embeddings": False}
    header = as_file_type(header_from_config(Path("qwen"), config), "Q4_K_M")
    two, four = (
        fit(header, [load_target("rpi5-2gb")], FitOptions(context_length=128, threads=threads))[0]
        for threads in (2, 4)
    )

    assert two.decode_tokens_per_second and four.decode_tokens_per_second
    assert two.decode_tokens_per_second.value == pytest.approx(11.19, rel=0.2)
    assert two.decode_tokens_per_second.value > four.decode_tokens_per_second.value


def test_energy_and_battery_follow_from_the_watts() -> None:
    target = load_target("rpi4")
    (result,) = fit(model(), [target], FitOptions(battery_watt_hours=18.0))

    assert target.power.load_watts.value == 6
    assert result.decode_joules_per_token and result.decode_tokens_per_second
    speed = result.decode_tokens_per_second.value
    assert result.decode_joules_per_token.value == pytest.approx(6 / speed)
    assert result.battery_hours and result.battery_hours.value == pytest.approx(3.0)
    assert result.idle_hours == pytest.approx(18 / 2.5)


def test_the_wait_for_the_first_token_grows_with_the_prompt() -> None:
    (result,) = fit(model(), [load_target("rpi5")], FitOptions(prompts=(100, 1000)))

    short, long = (each.seconds for each in result.first_token)
    assert short.low < short.value < short.high
    assert 10 * short.value < long.value < 13 * short.value


def test_a_prompt_that_the_context_has_no_room_for_is_left_out() -> None:
    options = FitOptions(context_length=512, prompts=(128, 511, 512, 2048))
    (result,) = fit(model(), [load_target("rpi5")], options)

    assert [each.prompt_tokens for each in result.first_token] == [128, 511]


def test_a_battery_s_rest_is_known_without_the_watts_of_load() -> None:
    (result,) = fit(
        model("smollm2-360m"), [load_target("rpi-zero-2w")], FitOptions(battery_watt_hours=6.0)
    )

    assert load_target("rpi-zero-2w").power.load_watts.value is None
    assert result.battery_hours is None and result.decode_joules_per_token is None
    assert result.idle_hours == pytest.approx(6 / 0.6)


def test_contexts_of_no_tokens_are_refused() -> None:
    with pytest.raises(InvalidOption, match="at least one token"):
        fit(model(), [load_target("rpi5")], FitOptions(context_length=0))


def test_every_target_gets_a_memory_plan_and_speeds() -> None:
    results = fit(model("smollm2-360m"), list_targets(), FitOptions())

    assert len(results) == len(list_targets())
    for result in results:
        assert result.peak_memory_bytes > 0
        for interval in (result.decode_tokens_per_second, result.prefill_tokens_per_second):
            assert interval and 0 < interval.low < interval.value < interval.high
    assert fitted() is fitted()


def with_memory(target: Target, **figures: Figure) -> Target:
    return dataclasses.replace(target, memory=dataclasses.replace(target.memory, **figures))


def spread(interval: tuple[float, float, float]) -> float:
    _, low, high = interval
    return high / low
