from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.gguf.types import KV_TYPES
from edgeslm.llama import native
from edgeslm.llama.context import Batch, Context, ContextOptions, DecodeAborted
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import Sampler, SamplingOptions
from edgeslm.testing import tiny_gguf

EXACT = ContextOptions(length=256, batch=64, kv_type="F32", outputs=64, flash_attention=False)
TOKENS = [5, 9, 100, 42, 7, 7, 200, 3, 31, 64]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, EXACT) as opened:
        yield opened


def _after(context: Context, tokens: list[int]) -> np.ndarray:
    context.forget()
    context.prefill(tokens)
    return context.logits().copy()


def test_prefill_and_steps_agree(context: Context) -> None:
    at_once = _after(context, TOKENS)
    context.forget()
    for position, token in enumerate(TOKENS):
        context.step(token, position)
    np.testing.assert_allclose(context.logits(), at_once, atol=1e-4)


def test_prefill_in_several_batches_agrees(model: Model, context: Context) -> None:
    expected = _after(context, TOKENS)
    with Context(
        model, ContextOptions(length=256, batch=3, ubatch=2, kv_type="F32", flash_attention=False)
    ) as small:
        np.testing.assert_allclose(_after(small, TOKENS), expected, atol=1e-4)


def test_every_row_of_a_batch_can_be_asked_for(context: Context) -> None:
    batch = Batch(16)
    for position, token in enumerate(TOKENS):
        batch.add(token, position, logits=True)
    assert len(batch) == len(TOKENS)
    context.forget()
    context.decode(batch)
    rows = [context.logits(index).copy() for index in range(len(TOKENS))]
    for index in (0, 4, 9):
        np.testing.assert_allclose(rows[index], _after(context, TOKENS[: index + 1]), atol=1e-4)
    batch.close()


def test_forgetting_a_tail_is_as_if_it_never_came(context: Context) -> None:
    expected = _after(context, [*TOKENS[:4], 77])
    _after(context, TOKENS)
    assert context.forget(4)
    context.step(77, 4)
    np.testing.assert_allclose(context.logits(), expected, atol=1e-4)


def test_one_row_of_logits_needs_a_small_compute_buffer(tmp_path: Path) -> None:
    with Model(tiny_gguf(tmp_path / "m.gguf")) as model:
        sizes = []
        for outputs in (1, 512):
            with Context(model, ContextOptions(length=512, outputs=outputs)) as context:
                sizes.append(context.buffer_bytes["compute"])
        assert sizes[0] < sizes[1]


def test_a_full_context_is_said_to_be_full(context: Context) -> None:
    context.forget()
    with pytest.raises(NativeFailure, match="256 tokens is full"):
        context.prefill([1] * 300)


def test_a_decode_can_be_stopped_between_operations(context: Context) -> None:
    context.forget()
    with pytest.raises(DecodeAborted):
        context.prefill(TOKENS, cancelled=lambda: True)
    context.forget()
    context.prefill(TOKENS)  # and the next one is not stopped


def test_logits_that_nobody_asked_for_are_an_error(context: Context) -> None:
    _after(context, TOKENS)
    with pytest.raises(ValueError, match="index 3"):
        context.logits(3)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_offered_kv_type_works(tmp_path: Path, kv_type: str) -> None:
    path = tiny_gguf(tmp_path / "wide.gguf", width=64, heads=2)
    with Model(path) as model:
        with Context(model, ContextOptions(length=256, kv_type="F32")) as reference:
            expected = _after(reference, TOKENS)
        with Context(model, ContextOptions(length=256, kv_type=kv_type)) as context:
            found = _after(context, TOKENS)
    assert np.corrcoef(found, expected)[0, 1] > 0.9


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"threads": 0}, {"batch": -1}, {"kv_type": "Q4_K"}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        ContextOptions(**options)  # type: ignore[arg-type]


def test_a_context_that_cannot_be_made_is_a_clear_error(model: Model) -> None:
    with pytest.raises(NativeFailure, match=r"cannot make a context: .*does not divide"):
        Context(model, ContextOptions(kv_type="Q8_0"))  # its heads are 16 wide


def test_greedy_takes_the_likeliest_and_heat_spreads(model: Model, context: Context) -> None:
    logits = _after(context, TOKENS)
    greedy = Sampler(model, SamplingOptions(temperature=0))
    assert greedy.sample(context) == int(logits.argmax())
    hot = Sampler(model, SamplingOptions(temperature=10, top_k=0, top_p=1, min_p=0, seed=1))
    assert len({hot.sample(context) for _ in range(50)}) > 10
    only = Sampler(model, SamplingOptions(temperature=10, top_k=1, seed=1))
    assert {only.sample(context) for _ in range(10)} == {int(logits.argmax())}
    for sampler in (greedy, hot, only):
        sampler.close()


def test_a_penalty_moves_on_from_what_was_said(model: Model, context: Context) -> None:
    _after(context, TOKENS)
    sampler = Sampler(model, SamplingOptions(temperature=0, repeat_penalty=10))
    assert len({sampler.sample(context) for _ in range(5)}) == 5
    sampler.close()


def test_logits_that_are_no_numbers_are_reported(model: Model, context: Context) -> None:
    _after(context, TOKENS)
    context.logits()[3] = np.nan
    sampler = Sampler(model, SamplingOptions())
    with pytest.raises(NativeFailure, match="damaged"):
        sampler.sample(context)
    sampler.close()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 1},
        {"repeat_penalty": 0},
        {"seed": 2**32},
    ],
)
def test_sampling_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_all_rows_and_hidden_states_come_as_arrays(model: Model, context: Context) -> None:
    batch = Batch(16)
    for position, token in enumerate(TOKENS):
        batch.add(token, position, logits=True)
    context.forget()
    context.decode(batch)
    rows = context.all_logits(len(TOKENS)).copy()
    for index in (0, 4, 9):
        np.testing.assert_array_equal(rows[index], context.logits(index))
    with pytest.raises(ValueError, match="no hidden states"):
        context.all_hidden(1)
    context.keep_hidden(True)
    context.forget()
    context.decode(batch)
    assert context.all_hidden(len(TOKENS)).shape == (len(TOKENS), model.hidden_size)
    np.testing.assert_array_equal(context.all_logits(len(TOKENS)), rows)
    batch.close()


def test_threads_can_be_set_between_decodes(model: Model) -> None:
    lib = native.library()
    with Context(model, ContextOptions(length=256, threads=2, prefill_threads=3)) as context:
        assert context.threads == (2, 3)
        context.set_threads(1, 0)
        assert context.threads == (1, 1)
        assert lib.llama_n_threads(context.handle) == 1
        assert lib.llama_n_threads_batch(context.handle) == 1
        context.prefill(TOKENS)
        context.set_threads(3, 2)
        assert lib.llama_n_threads(context.handle) == 3
        assert lib.llama_n_threads_batch(context.handle) == 2
