"""What a report says: names, winners, comparisons, and where each number comes from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import LAPTOP, PI, card, estimated, measured, result, speed, sustained

from edgeslm.errors import InvalidOption, UserError
from edgeslm.profiling.comparison import Verdict
from edgeslm.profiling.measurement import MemoryLimit
from edgeslm.profiling.report import tables
from edgeslm.profiling.report.content import build
from edgeslm.profiling.report.measures import DECODE, ENERGY, MEMORY, front
from edgeslm.profiling.report.naming import names
from edgeslm.profiling.results import LLAMA_BENCH_SCHEMA, FailedCell, Loaded, Result, SustainedRun
from edgeslm.profiling.speed import speed_of
from edgeslm.records import Provenance

SMALL = result("Q4_0", writing=50, peak=150_000_000, divergence=0.1)
LARGE = result("Q8_0", writing=30, peak=250_000_000, divergence=0.002)


def test_names_say_only_what_differs() -> None:
    assert names([SMALL, LARGE]) == ("Q4_0", "Q8_0")
    assert names([SMALL, replace(SMALL, host=LAPTOP)]) == ("pi5", "laptop")
    more = replace(SMALL, settings=replace(SMALL.settings, threads=1))
    assert names([SMALL, more]) == ("4 threads", "1 thread")
    assert names([SMALL]) == ("SmolLM2-135M Q4_0",)
    assert names([SMALL, SMALL]) == ("SmolLM2-135M Q4_0 #1", "SmolLM2-135M Q4_0 #2")


def test_what_follows_from_a_name_is_not_in_it() -> None:
    """Each file has a name of its own; the type tells them apart already."""
    assert SMALL.model.file != LARGE.model.file
    assert all(".gguf" not in name for name in names([SMALL, LARGE]))


@given(st.lists(st.sampled_from(["Q4_0", "Q8_0", "Q4_0 #1", "", "a, b"]), max_size=12))
def test_no_two_names_are_alike(kinds: list[str]) -> None:
    found = names([result(kind) for kind in kinds])
    assert len(set(found)) == len(kinds)


def test_who_is_best_at_what() -> None:
    best = {each.what: each for each in build(Loaded((SMALL, LARGE))).summary.winners[0].best}
    assert best["Fastest at writing"].name == "Q4_0"
    assert best["Least memory"].figure == "150 MB"
    assert best["Nearest to its original"].name == "Q8_0"
    assert "hardly to be told from the reference" in best["Nearest to its original"].note
    assert "Fastest at reading" not in best, "they are equally fast"


def test_the_best_that_cannot_be_told_from_others_is_not_alone() -> None:
    near = result("Q4_1", writing=50.05)
    best = build(Loaded((SMALL, near, LARGE))).summary.winners[0].best[0]
    assert best.name == "Q4_1"
    assert best.note == "no difference seen to Q4_0; last is Q8_0 with 30.0 tokens/s"


def test_too_few_runs_tell_nothing_of_a_difference() -> None:
    def short(each: Result) -> Result:
        (depth,) = each.depths
        assert depth.decode is not None
        runs = depth.decode.seconds.samples[:2]
        return replace(each, depths=(replace(depth, decode=speed_of(128, list(runs))),))

    best = build(Loaded((short(SMALL), short(LARGE)))).summary.winners[0].best[0]
    assert best.name == "Q4_0"
    assert best.note == "too few runs to tell it from Q8_0"


def test_tainted_results_do_not_win_against_clean_ones() -> None:
    fast = result("Q2_K", writing=500, taints=("other programs took the time of 1.20 cores",))
    summary = build(Loaded((SMALL, LARGE, fast))).summary
    assert summary.winners[0].best[0].name == "Q4_0"
    assert summary.warnings == (
        "1 of 3 results is tainted (Q2_K): other programs computed at the same time; "
        "the others decide who is best.",
    )


def test_tainted_results_that_decide_are_said_to() -> None:
    fast = result("Q2_K", writing=500, taints=("other programs took the time of 1.20 cores",))
    report = build(Loaded((SMALL, fast)))
    assert report.summary.winners[0].best[0].name == "Q2_K"
    assert report.summary.warnings == (
        "1 of 2 results is tainted (Q2_K): other programs computed at the same time; "
        "too few are left without them, so they count.",
    )
    rows = tables.results(report).rows
    assert [row[2].css for row in rows] == ["number", "number top"], "the table says the same"


def test_machines_are_judged_apart() -> None:
    there = [replace(each, host=LAPTOP) for each in (SMALL, LARGE)]
    found = build(Loaded((SMALL, LARGE, *there)))
    assert [each.host for each in found.summary.winners] == ["pi5", "laptop"]
    assert found.summary.lead == (
        "4 results: SmolLM2-135M as Q4_0 and Q8_0 on 2 machines, all with 4 threads and KV F16."
    )
    assert [each.name for each in found.machines] == ["pi5", "laptop"]


def test_estimated_energy_decides_nothing() -> None:
    pair = [result("Q4_0", joules=estimated(0.1)), result("Q8_0", joules=estimated(0.2))]
    found = build(Loaded(tuple(pair)))
    assert "Least energy" not in str(found.summary.winners)
    assert "estimated from published watts" in " ".join(found.summary.warnings)
    assert found.origins[0].energy == "estimated, not measured: 6.8 W x seconds"


def test_measured_energy_does() -> None:
    pair = [
        result("Q4_0", joules=measured(0.1), meter="shelly"),
        result("Q8_0", joules=measured(0.2), meter="shelly"),
    ]
    found = build(Loaded(tuple(pair)))
    best = {each.what: each for each in found.summary.winners[0].best}
    assert best["Least energy"].figure == "0.100 J"
    assert found.origins[0].energy == "measured with shelly, covers: board"


@pytest.mark.parametrize("other", ["another meter", "another provenance"])
def test_energies_that_were_read_differently_are_not_compared(other: str) -> None:
    by_shelly = result("Q4_0", joules=measured(0.1), meter="shelly")
    figure = measured(0.2)
    if other == "another provenance":
        figure = replace(figure, provenance=Provenance.CALIBRATED)
    meter = "tasmota" if other == "another meter" else "shelly"
    found = build(Loaded((by_shelly, result("Q8_0", joules=figure, meter=meter))))
    assert "Least energy" not in str(found.summary.winners)
    assert found.summary.warnings == (
        "Energies were read in different ways, or cover different things: not comparable.",
    )


def test_cards_about_other_originals_are_not_compared() -> None:
    other = replace(LARGE, quality=card(LARGE.model.file, 0.001, reference="another.gguf"))
    summary = build(Loaded((SMALL, other))).summary
    assert "Nearest" not in str(summary.winners)
    assert "not comparable" in summary.warnings[0]


def test_runs_are_compared_with_the_baseline_at_each_depth() -> None:
    pair = (result("Q8_0", depths=(0, 512)), result("Q4_0", writing=60, depths=(0, 512)))
    found = build(Loaded(pair))
    assert found.baseline == "Q8_0"
    assert [each.what for each in found.differences] == [
        *("writing", "writing at 512", "reading", "reading at 512")
    ]
    writing, _, reading, _ = found.differences
    assert writing.comparison.verdict is Verdict.HIGHER
    assert writing.comparison.ratio == pytest.approx(1.5, rel=0.01)
    assert reading.comparison.verdict is Verdict.NO_DIFFERENCE
    assert writing.alike


def test_runs_of_other_lengths_are_said_to_be() -> None:
    (depth,) = LARGE.depths
    long = replace(LARGE, depths=(replace(depth, decode=speed(30, tokens=1024)),))
    found = build(Loaded((SMALL, long))).differences
    assert [each.alike for each in found] == [False, True]


@pytest.mark.parametrize("wanted", ["Q8_0", "q8", LARGE.model.file])
def test_the_baseline_is_found_by_its_name(wanted: str) -> None:
    assert build(Loaded((SMALL, LARGE)), baseline=wanted).baseline == "Q8_0"


@pytest.mark.parametrize("wanted", ["Q5_0", "Q", ""])
def test_a_baseline_that_is_none_or_several_is_refused(wanted: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        build(Loaded((SMALL, LARGE)), baseline=wanted)
    assert caught.value.hint == "One of: Q4_0; Q8_0"


def test_nothing_to_report_is_said() -> None:
    with pytest.raises(UserError, match="no measurement"):
        build(Loaded(qualities=(card("a.gguf", 0.1),)))


def test_failures_and_long_runs_are_enough() -> None:
    failure = FailedCell("k", "m", "Q4_0", "pi5", "killed", None, Path("r.jsonl"))
    assert build(Loaded(failures=(failure,))).failures == (failure,)
    long = SustainedRun("warm", sustained(), Path("warm.json"))
    assert build(Loaded(sustained=(long,))).long_runs[0].name == "warm"


def test_a_card_without_a_measurement_is_noted() -> None:
    found = build(Loaded((SMALL,), qualities=(card("other.gguf", 0.1),)))
    assert found.notes == ("other.gguf.quality.json: no measurement of the file it is about",)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e30])
def test_numbers_that_nothing_can_be_measured_at_are_refused(number: float) -> None:
    broken = replace(SMALL, model=replace(SMALL.model, bits_per_weight=number))
    with pytest.raises(UserError, match=r"Q4_0\.json"):
        build(Loaded((broken,)))


def test_a_speed_of_nothing_is_compared_with_nothing() -> None:
    def still(each: Result) -> Result:
        (depth,) = each.depths
        return replace(each, depths=(replace(depth, decode=None),))

    found = build(Loaded((still(SMALL), LARGE)))
    assert [each.what for each in found.differences] == ["reading"]


def test_commands_measure_the_same_again() -> None:
    odd = replace(SMALL, model=replace(SMALL.model, file="my model; rm -rf.gguf"))
    (command,) = build(Loaded((odd,))).commands
    assert command == (
        "edgeslm profile 'my model; rm -rf.gguf' -p 512 -n 128 --depth 0 -r 7 --threads 4 "
        "--kv-type F16 --context 768 --json"
    )


def test_commands_measure_with_the_same_limits() -> None:
    assert SMALL.memory is not None
    limit = MemoryLimit(
        *(200_000_000, "a group", "fits", "fits", None, None, None, None, None, None, None, 9.0),
        *(10.0, False),
    )
    kept = replace(
        SMALL,
        memory=replace(SMALL.memory, limit=limit),
        settings=replace(SMALL.settings, budget_seconds=60.0),
        sustained=sustained(),
    )
    (command,) = build(Loaded((kept,))).commands
    assert command.endswith("--memory-limit 200000000 --budget 60 --sustained 60 --json")


def test_commands_leave_tuned_threads_to_what_was_tuned() -> None:
    """--threads would set those of reading too."""
    tuned = replace(SMALL, settings=replace(SMALL.settings, threads=2, prefill_threads=4))
    (command,) = build(Loaded((tuned,))).commands
    assert "--threads" not in command


def test_commands_name_both_types_of_a_cache() -> None:
    settings = replace(SMALL.settings, kv_type="F16/Q8_0")
    mixed = replace(SMALL, schema=LLAMA_BENCH_SCHEMA, settings=settings)
    (command,) = build(Loaded((mixed,))).commands
    assert command.endswith("-ctk f16 -ctv q8_0")


def test_the_front_is_who_nobody_beats() -> None:
    both = result("Q6_K", writing=45, peak=140_000_000)
    assert front([SMALL, LARGE, both], DECODE, MEMORY) == {0, 2}
    assert front([SMALL, SMALL], DECODE, MEMORY) == {0, 1}, "equals do not beat each other"
    assert front([SMALL], DECODE, ENERGY) == frozenset()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9))
def test_every_result_off_the_front_is_beaten_by_one_on_it(points: list[tuple[int, int]]) -> None:
    made = [result(writing=float(a), peak=b * 1_000_000) for a, b in points]
    best = front(made, DECODE, MEMORY)
    assert best
    for index, (a, b) in enumerate(points):
        beaten = any(
            points[other][0] >= a and points[other][1] <= b and points[other] != (a, b)
            for other in best
        )
        assert beaten == (index not in best)


def test_hosts_without_a_name_are_called_by_their_board_or_processor() -> None:
    nameless = replace(PI, name=None)
    cpu = replace(nameless, target=None)
    found = build(Loaded((result(host=nameless), result(host=cpu))))
    assert [each.host for each in found.entries] == ["rpi5-8gb", "Cortex-A76"]
