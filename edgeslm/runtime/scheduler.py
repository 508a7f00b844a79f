"""Several answers at once on one context: in each step every one of them goes on a little.

Prompts and answers share the batches ("continuous batching"): the weights are read once for all.
A slot keeps what it computed when its answer ends; a prompt that begins like what it, or another
slot, holds is not computed again. Nothing here is a thread: `step` is called until there is nothing
to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext

from edgeslm.errors import PromptTooLong, UserError
from edgeslm.llama.context import Batch, Context, DecodeAborted
from edgeslm.llama.sampler import Sampler
from edgeslm.runtime.governor import Governor
from edgeslm.runtime.job import Job
from edgeslm.runtime.slots import Share, Slot, next_shares


class Scheduler:
    """Answers jobs, as many at a time as `context` has sequences.

    Args:
        context: Used by nobody else; its batches hold at least as many tokens, and give as many
            rows of logits, as it has sequences.
    """

    def __init__(self, context: Context) -> None:
        options = context.options
        self.context = context
        self.slots = [Slot(number) for number in range(options.sequences)]
        self.length = context.length // options.sequences
        """Tokens that one prompt and its answer may have together."""
        self._rows = min(options.outputs, context.most_tokens)
        self._waiting: deque[Job] = deque()
        self._batch = Batch(context.most_tokens)
        self.governor: Governor | None = None
        """Adapts the threads between steps."""

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

    def step(self) -> bool:
        """Compute one batch; False if there is nothing to do.

        A job that fails by itself has its error; the others go on.

        Raises:
            NativeFailure: llama.cpp failed; all jobs are to be given up with `reset`.
        """
        self._drop_cancelled()
        self._admit()
        shares = next_shares(self.slots, self._batch.capacity, self._rows)
        if not shares:
            return bool(self._waiting)
        try:
            outputs = self._decode(shares)
        except DecodeAborted:
            for share in shares:
                self._cut(share.slot, len(share.slot.cached), clean=False)
            return True
        for share, index in outputs:
            self._take_outputs(share, index)
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
            slot = max(free, key=lambda slot: (slot.overlap(job.prompt), -len(slot.cached)))
            slot.job = job
            job.start(sampler)
            if job.options.score_prompt:
                self._cut(slot, 0)
            else:
                job.reused_tokens = self._reuse(slot, job.prompt)
            job.room = self.length - len(job.prompt)

    def _reuse(self, slot: Slot, prompt: Sequence[int]) -> int:
        """Have `slot` hold nothing but a beginning of `prompt`; how many tokens that is."""
        best = max(self.slots, key=lambda other: (other.overlap(prompt), other is slot))
        shared = best.overlap(prompt)
        if best is not slot and shared:
            self._cut(slot, 0)
            if self.context.share(best.sequence, slot.sequence, shared):
                slot.cached = list(prompt[:shared])
                return shared
        shared = slot.overlap(prompt)
        self._cut(slot, shared)
        return len(slot.cached)

    def _cut(self, slot: Slot, count: int, *, clean: bool = True) -> None:
        """Keep the first `count` tokens of a slot, or none where that is not possible.

        Unless `clean`, the cache may hold more than is known.
        """
        if clean and count == len(slot.cached):
            return
        if count and self.context.forget(count, sequence=slot.sequence):
            del slot.cached[count:]
            return
        self.context.forget(sequence=slot.sequence)
        slot.cached.clear()

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
        # llama.cpp asks at every operation: too often for a step that only takes answers on
        long = any(not job.answering for job in jobs)
        with self.governor.watching(len(self._batch)) if self.governor else nullcontext():
            self.context.decode(
                self._batch,
                cancelled=(lambda: all(job.cancelled() for job in jobs)) if long else None,
            )
        for share in shares:
            share.slot.cached += share.tokens
        return outputs

    def _take_outputs(self, share: Share, first: int) -> None:
        """What the rows of logits from `first` on say about the job's prompt and its next token."""
        slot, job = share.slot, share.slot.job
        assert job is not None  # noqa: S101  it had a share
        if job.options.score_prompt and not job.answering:
            start = len(slot.cached) - share.rows
            for row in range(share.rows):
                job.score_prompt(self.context, first + row, start + row)
        if share.ends:
            job.advance(self.context, first + share.rows - 1)
        if job.done:
            slot.job = None
