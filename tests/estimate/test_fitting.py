"""Settings that fit: always, no smaller than they must be, in the stated order."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from edgeslm.errors import NotEnoughMemory
from edgeslm.estimate.fitting import (
    LEAST_CONTEXT,
    LEAST_UBATCH,
    Fitting,
    Settings,
    fit,
    plan_for,
)
from edgeslm.estimate.memory import PROCESS_BYTES, plan_memory
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import tensor_type

ORDER = ("ubatch", "kv_type", "slots", "context")
HYPER = {
    "embedding_length": 576,
    "block_count": 30,
    "feed_forward_length": 1536,
    "attention.head_count": 9,
    "attention.head_count_kv": 3,
}
WINDOWED = {**HYPER, "attention.sliding_window": 512}


def model(architecture: str = "llama", hyper: dict[str, object] | None = None) -> Header:
    """A model of SmolLM2's sizes."""
    embedding = TensorInfo("token_embd.weight", tensor_type("Q8_0"), (576, 49152), 0, 96_000_000)
    return Header(
        path=Path("model.gguf"),
        version=3,
        metadata={
            "general.architecture": architecture,
            **{f"{architecture}.{name}": value for name, value in (hyper or HYPER).items()},
        },
        metadata_types={},
        tensors=(embedding,),
        data_offset=1_000_000,
        alignment=32,
        file_bytes=97_000_000,
    )


MODELS = {"llama": model(), "gemma3": model("gemma3", {**WINDOWED})}
wished_settings = st.builds(
    Settings,
    context=st.integers(64, 32768),
    kv_type=st.sampled_from(["F32", "F16", "Q8_0", "Q4_0"]),
    ubatch=st.sampled_from([8, 32, 100, 128, 512, 2048]),
    slots=st.integers(1, 8),
)


def needed(header: Header, settings: Settings) -> int:
    return plan_for([header], settings).needed_bytes


@dataclass(frozen=True)
class Case:
    """A model, what is wished for and what of it is fixed, and a share of the memory for that."""

    name: str
    wished: Settings
    fixed: frozenset[str]
    share: float

    @property
    def header(self) -> Header:
        return MODELS[self.name]

    @property
    def available(self) -> int:
        return round(self.share * needed(self.header, self.wished))

    def fit(self, more: int = 0) -> Fitting:
        """What fits into what is available, and `more`."""
        return fit([self.header], self.wished, self.available + more, explicit=self.fixed)


cases = st.builds(
    Case,
    st.sampled_from(sorted(MODELS)),
    wished_settings,
    st.frozensets(st.sampled_from(ORDER)),
    st.floats(0.2, 1.2),
)


@st.composite
def fitted(draw: st.DrawFn) -> tuple[Case, Fitting]:
    """A case in which something fits, and what."""
    case = draw(cases)
    try:
        return case, case.fit()
    except NotEnoughMemory:
        reject()


@given(fitted())
def test_what_is_found_fits_and_leaves_alone_what_was_given(fitted: tuple[Case, Fitting]) -> None:
    case, found = fitted

    assert found.plan.needed_bytes <= case.available
    assert found.plan == plan_for([case.header], found.settings)
    for setting in case.fixed:
        assert getattr(found.settings, setting) == getattr(case.wished, setting)
    if needed(case.header, case.wished) <= case.available:
        assert found == Fitting(case.wished, plan_for([case.header], case.wished), ())


@given(fitted())
def test_steps_come_in_the_stated_order_and_go_to_the_end_before_the_next(
    fitted: tuple[Case, Fitting],
) -> None:
    case, found = fitted

    taken = [step.setting for step in found.steps]
    assert taken == sorted(taken, key=ORDER.index)
    assert all(step.saved_bytes > 0 for step in found.steps)
    assert sum(step.saved_bytes for step in found.steps) == (
        needed(case.header, case.wished) - found.plan.needed_bytes
    )
    least = {"ubatch": 2 * LEAST_UBATCH - 1, "kv_type": "Q8_0", "slots": 1}
    for setting in taken[:-1]:
        value = getattr(found.settings, setting)
        assert value == least[setting] or (setting == "ubatch" and value <= least[setting])
    if taken and taken[-1] != "kv_type":
        last = taken[-1]
        more = {"ubatch": 2 * found.settings.ubatch, "slots": found.settings.slots + 1}
        bigger = more.get(last, found.settings.context + 256)
        bigger = min(bigger, getattr(case.wished, last))
        larger = dataclasses.replace(found.settings, **{last: bigger})
        assert needed(case.header, larger) > case.available


@given(fitted(), st.integers(0, 10**9))
def test_more_memory_never_gives_less(fitted: tuple[Case, Fitting], more: int) -> None:
    case, less = fitted[0], fitted[1].settings

    found = case.fit(more).settings

    assert found.context >= less.context
    assert found.slots >= less.slots
    assert found.ubatch >= less.ubatch
    assert found.kv_type in (case.wished.kv_type, less.kv_type)


@given(cases)
def test_the_fix_that_a_refusal_names_works(case: Case) -> None:
    try:
        case.fit()
        return
    except NotEnoughMemory as error:
        hint = error.hint or ""

    named = dict(re.findall(r"--([a-z-]+) (\w+)", hint))
    if "size" in named:
        return
    given_anew = {
        option.replace("-", "_"): int(value) if value.isdecimal() else value
        for option, value in named.items()
    }
    assert given_anew
    assert set(given_anew) <= case.fixed

    fit(
        [case.header],
        dataclasses.replace(case.wished, **given_anew),
        case.available,
        explicit=case.fixed,
    )


def test_a_refusal_for_good_says_how_much_is_missing() -> None:
    with pytest.raises(NotEnoughMemory, match="100 MB may be used") as caught:
        fit([model()], Settings(), 100_000_000)

    least = Settings(LEAST_CONTEXT, "Q8_0", LEAST_UBATCH)
    missing = (needed(model(), least) - 100_000_000) / 1e6
    assert f"Free {missing:.1f} MB" in (caught.value.hint or "")


def test_steps_are_sentences_with_bytes() -> None:
    found = fit([model()], Settings(), 180_000_000)

    patterns = [
        r"ubatch 512 -> 32: it saves [\d.]+ MB, prompts are read more slowly",
        r"KV cache F16 -> Q8_0: it saves [\d.]+ MB, the quality hardly changes",
        r"context 2048 -> \d+: it saves [\d.]+ MB, longer texts do not fit",
    ]
    for step, pattern in zip(found.steps, patterns, strict=True):
        assert re.fullmatch(pattern, step.sentence)


def test_several_models_share_one_process() -> None:
    one = plan_memory(model(), context_length=2048)

    both = plan_for([model(), model()], Settings())

    assert both.total_bytes == 2 * one.total_bytes - PROCESS_BYTES
    with pytest.raises(NotEnoughMemory):
        fit([model(), model()], Settings(), one.total_bytes, explicit=ORDER)


def test_slots_have_a_context_each() -> None:
    four = plan_for([model()], Settings(1024, slots=4))

    assert four.kv_bytes == plan_memory(model(), context_length=4096).kv_bytes


def test_a_cache_stays_as_it_is_where_its_heads_do_not_hold_a_block() -> None:
    narrow = model(hyper={**HYPER, "attention.key_length": 48, "attention.value_length": 48})

    found = fit([narrow], Settings(), round(0.9 * needed(narrow, Settings())))

    assert found.steps
    assert found.settings.kv_type == "F16"
