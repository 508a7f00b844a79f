"""Drafts for the answers of a step, and what is learnt from how they fare.

A draft's tokens are computed in the same step as the last token of the answer; the answer's own
sampler then decides about each. So drafts change how long an answer takes, not what it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeslm.llama.context import Context, DecodeAborted
from edgeslm.runtime.draft_model import DraftModel
from edgeslm.runtime.job import Job
from edgeslm.runtime.lookup import PromptLookup
from edgeslm.runtime.slots import Share
from edgeslm.runtime.speculation import (
    MOST_ROWS,
    Ledger,
    Prospect,
    Rate,
    StepCosts,
    chances,
    match_rank,
    match_rates,
    parts,
    passes,
    plan,
)

_LONGEST_DRAFT = MOST_ROWS - 1
_LONGEST_MODEL_DRAFT = 7
_STEPS_BETWEEN_PLAIN = 64
"""After so many steps with drafts comes one without, to see what that takes now."""
_MODEL_PRIOR = 0.7


class Drafts:
    """Adds drafts to shares where that pays; one for each scheduler.

    Args:
        context: Where they are verified.
        model: Guesses too, beside what the text itself suggests.
    """

    def __init__(self, context: Context, model: DraftModel | None = None) -> None:
        self._possible = not context.model.recurrent
        self._length = context.sequence_length
        self._most = min(MOST_ROWS, context.options.outputs, context.most_tokens)
        self._model = model
        self._model_rate = Rate(_MODEL_PRIOR)
        self._costs = StepCosts()
        self._ledger = Ledger()
        self._tracks: dict[int, _Track] = {}
        self._since_plain = 0
        self._together = self._guessing = False

    def extend(self, shares: list[Share]) -> list[Share]:
        """The shares, some of them with drafts.

        There are none while a prompt is computed: it fills the batch.
        """
        for sequence in [each for each, track in self._tracks.items() if track.job.done]:
            del self._tracks[sequence]
        self._together = all(_goes_on(share) for share in shares)
        self._guessing = False
        if not self._possible or not self._together:
            return shares
        tracks = [self._track(share) for share in shares]
        self._guessing = any(tracks)
        if not self._guessing:
            return shares
        prospects = [
            Prospect() if track is None else self._prospect(share, track)
            for share, track in zip(shares, tracks, strict=True)
        ]
        counts = self._counts(prospects, tracks, [share.slot.sequence for share in shares])
        return [
            share if track is None or not count else self._drafted(share, track, count)
            for share, track, count in zip(shares, tracks, counts, strict=True)
        ]

    def give_up(self) -> None:
        """The context cannot take back what was not right: no more drafts."""
        self._possible = False

    def learn(self, shares: Sequence[Share], kept: Sequence[int], seconds: float) -> None:
        """A step with these shares took so long, and so many tokens of each draft were right."""
        if not self._together:
            self._ledger.prefilled(seconds)
            return
        if not self._guessing:
            return
        drafted = sum(len(share.draft) for share in shares)
        lengths = {share.slot.sequence: len(share.tokens) for share in shares}
        self._costs.learn(passes(lengths), seconds)
        self._since_plain = self._since_plain + 1 if drafted else 0
        plain = self._costs.step(dict.fromkeys(lengths, 1))
        spent = self._costs.step(lengths) - plain if drafted else 0.0
        self._model_rate.fade()
        for share, right in zip(shares, kept, strict=True):
            track = self._tracks.get(share.slot.sequence)
            if track is not None:
                spent += track.drafting_seconds
                if track.by_model and share.draft:
                    for index in range(min(right + 1, len(share.draft))):
                        self._model_rate.add(index < right)
                elif track.drafting_seconds:  # it was asked, and was not sure
                    self._model_rate.add(False)
                track.drafting_seconds = 0.0
            if share.slot.job is None:
                self._tracks.pop(share.slot.sequence, None)
        self._ledger.step(plain, spent=spent, saved=sum(kept) * plain / len(shares))

    def _track(self, share: Share) -> _Track | None:
        """What is known of the share's answer by now; None if it is to go without drafts."""
        job, sequence = share.slot.job, share.slot.sequence
        if job is None or not job.options.may_guess or share.slot.dropped:
            return None
        track = self._tracks.get(sequence)
        if track is None or track.job is not job:
            track = self._tracks[sequence] = _Track(job)
            if self._model is not None:
                self._model.begin(sequence, job.prompt)
        track.catch_up()
        return track

    def _prospect(self, share: Share, track: _Track) -> Prospect:
        track.by_model = False
        room = self._length - len(share.slot.cached) - 1
        most = min(_LONGEST_DRAFT, track.job.left - 1, room)
        found = track.chances(most)
        rate = self._model_rate.value
        if self._model is None or (found and found[0] >= rate):
            return Prospect(found)
        track.by_model = True
        model, sequence, length = self._model, share.slot.sequence, track.length
        step = self._costs.seconds(1)
        return Prospect(
            [rate] * min(most, _LONGEST_MODEL_DRAFT),
            lambda count: model.seconds(sequence, length, count, step),
        )

    def _counts(
        self,
        prospects: Sequence[Prospect],
        tracks: Sequence[_Track | None],
        sequences: Sequence[int],
    ) -> tuple[int, ...]:
        always = [track is not None and track.job.always_drafts for track in tracks]
        if any(always):
            forced = [
                prospect if wanted else Prospect()
                for prospect, wanted in zip(prospects, always, strict=True)
            ]
            return parts(forced, self._most)
        if self._since_plain >= _STEPS_BETWEEN_PLAIN:
            return (0,) * len(prospects)
        credit = self._ledger.credit
        return plan(prospects, self._costs, credit=credit, most=self._most, sequences=sequences)

    def _drafted(self, share: Share, track: _Track, count: int) -> Share:
        """The share with a draft of up to `count` tokens."""
        if track.by_model and self._model is not None:
            sequence, job = share.slot.sequence, track.job
            step = self._costs.seconds(1)
            track.drafting_seconds = self._model.seconds(sequence, track.length, count, step)
            text = (*job.prompt, *job.answer)
            try:
                draft = self._model.draft(sequence, text, count, cancelled=job.cancelled)
            except DecodeAborted:
                return share
        else:
            track.drafting_seconds = 0.0
            draft = track.after(count)
        return replace(
            share, tokens=(*share.tokens, *draft), rows=share.rows + len(draft), draft=draft
        )


class _Track:
    """The text of one job, and how guesses about it fare."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.by_model = False
        self.drafting_seconds = 0.0
        self._lookup = PromptLookup(job.prompt)
        self._rates = match_rates()
        self._taken = 0
        self._match = self._lookup.match()

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.job.prompt) + len(self.job.answer)

    def catch_up(self) -> None:
        """Take in the answer's new tokens; each shows what a guess would have been worth."""
        answer = self.job.answer
        for token in answer[self._taken :]:
            place, length = self._match
            if length:
                self._rates[match_rank(length)].add(self._lookup.after(place, 1) == (token,))
            self._lookup.append(token)
            self._match = self._lookup.match()
        self._taken = len(answer)

    def chances(self, most: int) -> list[float]:
        """How likely each of the next tokens is what the text suggests; empty if it does not."""
        _, length = self._match
        return chances(self._rates, length, most) if length else []

    def after(self, count: int) -> tuple[int, ...]:
        """The next tokens as the text suggests them."""
        return self._lookup.after(self._match[0], count)


def _goes_on(share: Share) -> bool:
    """Whether it takes an answer on by a token, and nothing else."""
    job = share.slot.job
    return job is not None and job.answering and len(share.tokens) == 1
