"""States that move between sequences and contexts give the logits of a cold run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.state import (
    can_take_beginning,
    copy_state,
    restore_state,
    state_bytes,
    take_beginning,
)
from edgeslm.llama.state_layout import layout_of
from edgeslm.testing import tiny_gguf

LONG = [(7 * index + 13) % 250 for index in range(90)]
REST = [5, 9, 100, 42]
SLOTS = ContextOptions(length=4 * 256, batch=64, ubatch=64, threads=1, sequences=4, outputs=4)
FAMILIES = [("llama", 7), ("gemma3", 7), ("gemma3", 2), ("lfm2", 7), ("qwen2vl", 2)]
CACHES = pytest.mark.parametrize(
    ("kv_type", "flash"), [("F16", None), ("F16", False), ("F32", True), ("Q8_0", True)]
)


@pytest.fixture(scope="module", params=FAMILIES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    """Opened; of two layers, Gemma's all have windows."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    architecture, layers = request.param
    with Model(tiny_gguf(path, architecture=architecture, layers=layers, width=64)) as opened:
        yield opened


def _read(context: Context, sequence: int, tokens: list[int], start: int = 0) -> np.ndarray:
    """The logits after all of them."""
    batch = Batch(64)
    try:
        for first in range(0, len(tokens), 16):
            batch.clear()
            for index, token in enumerate(tokens[first : first + 16]):
                place = start + first + index
                batch.add(token, place, sequence=sequence, logits=first + index + 1 == len(tokens))
            context.decode(batch)
        return context.logits().copy()
    finally:
        batch.close()


@CACHES
@pytest.mark.parametrize(("held", "count"), [(90, 32), (90, 90), (30, 16)])
def test_a_copied_beginning_is_what_a_cold_run_computes(
    model: Model, kv_type: str, flash: bool | None, held: int, count: int
) -> None:
    options = replace(SLOTS, kv_type=kv_type, flash_attention=flash)
    with Context(model, options) as context:
        _read(context, 3, LONG[:7])  # another one's is not taken for it
        _read(context, 1, LONG[:held])
        _read(context, 2, LONG[50:70])
        context.forget(sequence=2)
        if not can_take_beginning(context, held, count):
            assert model.recurrent or (model.sliding_window and count < held)
            assert take_beginning(context, 1, count) is None
            return
        taken = take_beginning(context, 1, count)
        assert taken is not None
        assert restore_state(context, 2, taken)
        copied = _read(context, 2, REST, count)
        source = _read(context, 1, REST, held)
    with Context(model, options) as context:
        _read(context, 2, LONG[:count])
        np.testing.assert_array_equal(copied, _read(context, 2, REST, count))
        _read(context, 1, LONG[:held])
        np.testing.assert_array_equal(source, _read(context, 1, REST, held))


@CACHES
@pytest.mark.parametrize(("wrote", "reads"), [(4, 1), (1, 4), (2, 3), (4, 4)])
def test_a_state_goes_from_a_context_to_another_of_more_or_fewer_sequences(
    model: Model, kv_type: str, flash: bool | None, wrote: int, reads: int
) -> None:
    def context_of(sequences: int) -> Context:
        shape = replace(SLOTS, length=256 * sequences, sequences=sequences, outputs=sequences)
        return Context(model, replace(shape, kv_type=kv_type, flash_attention=flash))

    with context_of(wrote) as context:
        sequence = wrote // 2
        _read(context, sequence, LONG)
        state = bytearray(state_bytes(context, sequence))
        copy_state(context, sequence, memoryview(state))
        cold = _read(context, sequence, REST, len(LONG))
    with context_of(reads) as context:
        for sequence in range(reads):
            assert restore_state(context, sequence, memoryview(state))
            np.testing.assert_array_equal(_read(context, sequence, REST, len(LONG)), cold)


def test_what_is_no_state_has_no_layout(model: Model) -> None:
    with Context(model, SLOTS) as context:
        _read(context, 1, LONG[:20])
        state = bytearray(state_bytes(context, 1))
        copy_state(context, 1, memoryview(state))
        how = {
            "several": not model.recurrent,
            "cell_words": 6 if model.several_positions else 3,
        }
        assert layout_of(memoryview(state), **how) is not None
        chance = np.random.default_rng(1)
        for _ in range(300):
            changed = bytearray(state)
            for place in chance.integers(8, 8 + 400, 3):
                changed[place] = int(chance.integers(256))
            cut = memoryview(changed)[: int(chance.integers(len(state) + 1))]
            for view in (memoryview(changed), cut):
                layout = layout_of(view, **how)  # it is not read beyond its end
                if layout is not None:
                    assert layout.end <= len(view)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edgeslm.llama.state.layout_of", lambda *_, **__: None)
            assert take_beginning(context, 1, 10) is None
