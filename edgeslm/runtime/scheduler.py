"""Several answers at once on one context: in each step every one of them goes on a little.

Prompts and answers share the batches ("continuous batching"): the weights are read once for all.
Only jobs with the same adapter can: those with different ones take turns.
A slot keeps what it computed when its answer ends; a prompt that begins like what it, or another
slot, holds is not computed again, but copied where that is less work. Nothing here is a thread:
`step` is called until there is nothing to do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from edgeslm.errors import PromptTooLong, UserError
from edgeslm.llama.context import Batch, Context, DecodeAborted
from edgeslm.llama.sampler import Sampler
from edgeslm.runtime.beginnings import Beginnings
from edgeslm.runtime.draft_model import DraftModel
from edgeslm.runtime.drafting import Drafts
from edgeslm.runtime.governor import Governor
from edgeslm.runtime.job import Job
from edgeslm.runtime.prompt_states import PromptStates
from edgeslm.runtime.sharing import Sharing
from edgeslm.runtime.slots import Share, Slot, next_shares
from edgeslm.runtime.turns import Turns

_SINKS = 4
"""Tokens at the very beginning that stay in any case: models lean on them."""
_WARMING_TOKENS = 24
"""As many as a short question has."""


class Scheduler:
    """Answers jobs, as many at a time as `context` has sequences.

    Args:
        context: Used by nobody else; its batches hold at least as many tokens, and give as many
            rows of logits, as it has sequences.
        states: Where beginnings of prompts are kept on disk.
        draft: Guesses what answers will say.
    """

    def __init__(
        self,
        context: Context,
        states: PromptStates | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        options = context.options
        self.context = context
        self.slots = [Slot(number) for number in range(options.sequences)]
        self.length = context.sequence_length
        """Tokens that one prompt and its answer may have together."""
        self._beginnings = Beginnings(context, states) if states is not None else None
        self._turns = Turns()
        self._rows = min(options.outputs, context.most_tokens)
        self._waiting: deque[Job] = deque()
        self._batch = Batch(context.most_tokens)
        self._drafts = Drafts(context, draft)
        self._sharing = Sharing(context, self.slots)
        self.governor: Governor | None = None
        """Adapts the threads between steps."""
        self.before_decode: Callable[[], None] = lambda: None
        """Called when a batch is put together, before it is computed."""

    def close(self) -> None:
        """Free the batch; the context stays."""
        self._batch.close()

    def submit(self, job: Job) -> None:
        """Have `job` answered as soon as a slot is free.

        Raises:
            UserError: as from `check`.
        """
        self.check(job)
        self._waiting.append(job)

    def check(self, job: Job) -> None:
        """Return if `job` can be answered; any thread may ask.

        Raises:
            UserError: its prompt is empty or does not fit into the context.
        """
        if not job.prompt:
            raise UserError("the prompt is empty", hint="Say something.")
        if len(job.prompt) >= self.length:
            raise PromptTooLong(
                f"the prompt has {len(job.prompt)} tokens and the context holds {self.length}",
                hint="Shorten it, or give a longer --context.",
            )

    def preload(self) -> None:
        """Be ready for the first request, if nothing else is done.

        A few tokens are computed and forgotten, so that weights and buffers are in memory; and a
        slot holds the beginning that prompts had last time.
        """
        first = self.slots[0]
        if first.job is not None or first.cached:
            return
        try:
            self.context.prefill([0] * min(_WARMING_TOKENS, self.length))
            self.context.synchronize()
        finally:
            self.context.forget(sequence=first.sequence)
        if self._beginnings is not None:
            self._beginnings.preload(first, self.length - 1)

    def step(self) -> bool:
        """Compute one batch; False if there is nothing to do.

        A job that fails by itself has its error; the others go on.

        Raises:
            NativeFailure: llama.cpp failed; all jobs are to be given up with `reset`.
        """
        self._drop_cancelled()
        self._admit()
        for slot in self.slots:
            if slot.job is not None and slot.job.length - slot.dropped > self.length:
                self._shift(slot, slot.job)
        shares = next_shares(self._turns.next(self.slots), self._batch.capacity, self._rows)
        shares = self._drafts.extend(shares)
        if not shares:
            return bool(self._waiting)
        began = time.perf_counter()
        try:
            outputs = self._decode(shares)
        except DecodeAborted:
            for share in shares:
                self._cut(share.slot, len(share.slot.cached), clean=False)
            return True
        self.context.synchronize()
        seconds = time.perf_counter() - began
        kept = [self._take_outputs(share, index) for share, index in outputs]
        self._drafts.learn(shares, kept, seconds)
        return True

    def reset(self, error: BaseException) -> None:
        """Give up all jobs, and forget what the cache holds."""
        jobs = [*(slot.job for slot in self.slots if slot.job is not None), *self._waiting]
        self._waiting.clear()
        for slot in self.slots:
            slot.job = None
            self._cut(slot, 0, clean=False)
        for job in jobs:
            job.fail(error)

    def _admit(self) -> None:
        """Give free slots to those who wait longest, each the one that holds most of its prompt."""
        while self._waiting:
            free = [slot for slot in self.slots if slot.job is None]
            if not free:
                return
            job = self._waiting.popleft()
            try:
                sampler = Sampler(self.context.model, job.options.sampling)
            except Exception as error:  # its own: a grammar that is none, among others
                job.fail(error)
                continue
            adapter = job.options.adapter
            slot = max(
                free, key=lambda slot: (slot.overlap(job.prompt, adapter), -len(slot.cached))
            )
            slot.job = job
            job.start(sampler)
            if adapter is not slot.adapter or job.options.score_prompt:
                self._cut(slot, 0)
                slot.adapter = adapter
            if not job.options.score_prompt:
                job.reused_tokens = self._reuse(slot, job)
            can_go_on = job.options.shift and self.context.can_shift
            job.room = self.length - len(job.prompt)
            if can_go_on:
                job.room = job.options.max_tokens or self.length

    def _reuse(self, slot: Slot, job: Job) -> int:
        """Have `slot` hold nothing but a beginning of the prompt; how many tokens that is."""
        prompt = job.prompt
        best = max(
            self.slots, key=lambda other: (other.overlap(prompt, slot.adapter), other is slot)
        )
        shared = best.overlap(prompt, slot.adapter)
        own = slot.overlap(prompt, slot.adapter)
        pays = self._sharing.pays(best, shared, shared - own)
        taken = self._sharing.take(best, shared) if pays else None
        self._cut(slot, own if taken is None else 0)
        if taken is not None:
            self._sharing.give(taken, slot)
        if self._beginnings is not None:
            job.boundary = self._beginnings.boundary(len(prompt), job.options.keep)
            self._beginnings.restore(slot, prompt)
        return len(slot.cached)

    def _shift(self, slot: Slot, job: Job) -> None:
        """Make room in a slot that is full, or end its answer there."""
        kept = max(_SINKS, min(job.options.keep, self.length // 2))
        dropped = (len(slot.cached) - kept) // 2
        if (
            len(slot.cached) == self.length
            and dropped
            and self.context.shift(kept, dropped, sequence=slot.sequence)
        ):
            del slot.cached[kept : kept + dropped]
            slot.dropped += dropped
            slot.exact = kept if slot.exact is None else min(kept, slot.exact)
        else:
            job.end_at_limit()
            slot.job = None

    def _cut(self, slot: Slot, count: int, *, clean: bool = True) -> None:
        """Keep the first `count` tokens of a slot, or none where that is not possible.

        Unless `clean`, the cache may hold more than is known.
        """
        if clean and count == len(slot.cached):
            return
        if count and self.context.forget(count, sequence=slot.sequence):
            del slot.cached[count:]
        else:
            self.context.forget(sequence=slot.sequence)
            slot.cached.clear()
        if slot.exact is not None and len(slot.cached) <= slot.exact:
            slot.exact, slot.dropped = None, 0

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._waiting if job.cancelled()]:
            self._waiting.remove(job)
            job.cancel()
        for slot in self.slots:
            if slot.job is not None and slot.job.cancelled():
                slot.job.cancel()
                slot.job = None

    def _decode(self, shares: Sequence[Share]) -> list[tuple[Share, int]]:
        """Compute the shares; each with the place in the batch of its first row of logits."""
        self._batch.clear()
        outputs = []
        for share in shares:
            start = len(share.slot.cached)
            silent = len(share.tokens) - share.rows
            outputs.append((share, len(self._batch) + silent))
            for offset, token in enumerate(share.tokens):
                wanted = offset >= silent
                self._batch.add(token, start + offset, sequence=share.slot.sequence, logits=wanted)
        jobs = [share.slot.job for share in shares if share.slot.job is not None]
        self.context.use_adapter(shares[0].slot.adapter)
        # llama.cpp asks at every operation: too often for a step that only takes answers on
        long = any(not job.answering for job in jobs)
        self.before_decode()
        with self.governor.watching(len(self._batch)) if self.governor else nullcontext():
            self.context.decode(
                self._batch,
                cancelled=(lambda: all(job.cancelled() for job in jobs)) if long else None,
            )
        for share in shares:
            slot = share.slot
            slot.cached += share.tokens
            slot.most = max(slot.most, len(slot.cached))
            job = slot.job
            at_boundary = job is not None and len(slot.cached) == job.boundary
            if self._beginnings and job and at_boundary and not job.answering:
                self._beginnings.keep(slot)
        return outputs

    def _take_outputs(self, share: Share, first: int) -> int:
        """What the rows of logits from `first` on say about the job's prompt and its next tokens.

        Returns:
            How many tokens of the share's draft were right; the others are forgotten.
        """
        slot, job = share.slot, share.slot.job
        assert job is not None  # noqa: S101  it had a share
        if job.options.score_prompt and not job.answering:
            start = len(slot.cached) - share.rows
            for row in range(share.rows):
                job.score_prompt(self.context, first + row, start + row)
        kept = 0
        if share.ends:
            last = first + share.rows - 1 - len(share.draft)
            kept = job.advance(self.context, last, share.draft)
        if job.done:
            slot.job = None
        wrong = len(share.draft) - kept
        if wrong:
            self._cut(slot, len(slot.cached) - wrong)
            if not slot.cached:
                self._drafts.give_up()
        return kept
