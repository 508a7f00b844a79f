"""A beginning that another slot holds is copied where that is less work, and not computed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeslm.llama import state
from edgeslm.llama.context import Batch, Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.llama.state import state_bytes
from edgeslm.runtime import sharing as sharing_module
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.job import Job
from edgeslm.runtime.scheduler import Scheduler
from edgeslm.runtime.sharing import Sharing
from edgeslm.runtime.slots import Slot

SLOTS = ContextOptions(length=3 * 512, batch=64, threads=1, sequences=3, outputs=3)
LONG = [(7 * index + 13) % 250 for index in range(400)]


def _held(context: Context, slot: Slot, tokens: list[int]) -> Slot:
    batch = Batch(len(tokens))
    for first in range(0, len(tokens), 64):
        batch.clear()
        for index, token in enumerate(tokens[first : first + 64]):
            batch.add(token, first + index, sequence=slot.sequence)
        context.decode(batch)
    batch.close()
    slot.cached, slot.most = list(tokens), len(tokens)
    return slot


def test_what_others_compute_is_only_what_is_not_shared(model: Model) -> None:
    if model.sliding_window:
        pytest.skip("the window has moved on before another prompt comes")
    options = GenerationOptions(4, sampling=SamplingOptions(temperature=0))
    prompts = [[*LONG[:200], *rest] for rest in ([3, 4], [5, 6, 7], [8])]

    def answers(together: bool) -> tuple[list[Job], int]:
        with Context(model, SLOTS) as context, pytest.MonkeyPatch.context() as patch:
            computed = []
            plain = context.decode
            patch.setattr(
                context, "decode", lambda batch, **more: (computed.append(len(batch)), plain(batch))
            )
            scheduler = Scheduler(context)
            jobs = [Job(prompt, options) for prompt in prompts]
            for job in jobs:
                scheduler.submit(job)
                while not (job.answering if together else job.done):
                    scheduler.step()
                if not together:
                    scheduler.reset(ValueError())
            while scheduler.step():
                pass
            scheduler.close()
            return jobs, sum(computed)

    alone, all_tokens = answers(together=False)
    jobs, tokens = answers(together=True)
    assert [job.answer for job in jobs] == [job.answer for job in alone]
    assert [job.reused_tokens for job in jobs] == [0, 200, 200]
    assert all_tokens - tokens == 400


def test_the_target_holds_the_beginning_and_no_more(model: Model) -> None:
    with Context(model, SLOTS) as context:
        slots = [Slot(number) for number in range(3)]
        source = _held(context, slots[1], LONG[:30])
        sharing = Sharing(context, slots)
        taken = sharing.take(source, 20)
        assert taken is not None
        sharing.give(taken, slots[2])
        assert (slots[2].cached, slots[2].most) == (LONG[:20], 20)
        copied = state_bytes(context, 2)
        _held(context, slots[0], LONG[:20])
        assert copied == state_bytes(context, 0)


def test_a_little_of_a_long_text_is_computed_and_not_copied(model: Model) -> None:
    with Context(model, SLOTS) as context:
        slots = [Slot(number) for number in range(3)]
        sharing = Sharing(context, slots)
        source = _held(context, slots[0], LONG)
        assert not sharing.pays(source, 3, 3)
        assert not sharing.pays(source, 300, 3)  # the target holds nearly all of it itself
        assert not sharing.pays(source, 300, 0)
        assert sharing.pays(source, 300, 300) is not bool(model.sliding_window)


def test_the_copy_takes_no_more_memory_than_is_planned(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a little: what the cache will take anyway, and has not taken yet."""
    with Context(model, replace(SLOTS, as_it_fills=True)) as context:
        slots = [Slot(number) for number in range(3)]
        sharing = Sharing(context, slots)
        source = _held(context, slots[0], LONG[:30])
        assert sharing.pays(source, 20, 20)
        slots[1].most = slots[2].most = 512
        slots[0].most = 512 - 50
        monkeypatch.setattr("edgeslm.runtime.sharing._SMALL", 0)
        assert sharing.pays(source, 20, 20)
        slots[0].most += 1
        assert not sharing.pays(source, 20, 20)
        monkeypatch.setattr("edgeslm.runtime.sharing._SMALL", 1 << 20)
        assert sharing.pays(source, 20, 20)


def test_where_it_cannot_be_a_slot_keeps_what_it_holds_and_nothing_is_tried_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that llama.cpp writes in another way than we know costs one try."""
    if model.sliding_window:
        pytest.skip("the window has moved on before another prompt comes")
    options = GenerationOptions(2, sampling=SamplingOptions(temperature=0))
    tried: list[int] = []
    with Context(model, replace(SLOTS, length=2 * 512, sequences=2)) as context:
        scheduler = Scheduler(context)

        def reused(prompt: list[int]) -> list[int]:
            jobs = [Job([*prompt, 3, number], options) for number in range(2)]
            for job in jobs:
                scheduler.submit(job)
                while not job.answering:
                    scheduler.step()
            return [job.reused_tokens for job in jobs]

        assert reused(LONG[:30]) == [0, 31]
        monkeypatch.setattr(state, "layout_of", lambda *_, **__: tried.append(1))
        assert reused(LONG[:200]) == [30, 30]
        assert reused(LONG[:300]) == [200, 200]
        scheduler.close()
    assert tried == [1]


def test_what_a_token_costs_is_what_of_a_mixture_it_goes_through(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Context(model, SLOTS) as context:
        slots = [Slot(number) for number in range(3)]
        source = _held(context, slots[0], LONG[:30])
        assert Sharing(context, slots).pays(source, 20, 20)
        monkeypatch.setattr(sharing_module, "prompt_weights", lambda _header: 10)
        assert not Sharing(context, slots).pays(source, 20, 20)
