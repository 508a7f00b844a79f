"""One prompt on its way to an answer: what is computed of it, what was said, how long it took."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgeslm.llama.context import Context
from edgeslm.llama.sampler import Sampler
from edgeslm.runtime.generation import (
    Cancelled,
    FinishReason,
    Generation,
    GenerationOptions,
    OnText,
)
from edgeslm.runtime.text import TextStream
from edgeslm.runtime.token_scores import TokenScore, score


class Job:
    """A request and its answer so far.

    Args:
        prompt: Token ids, at least one.
        options: How to generate.
        on_text: Called with each piece of text as soon as it is certain.
        cancelled: Asked between tokens, and during prefill; True ends the answer.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        *,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> None:
        self.prompt = tuple(prompt)
        self.options = options
        self.cancelled: Cancelled = cancelled or _never
        self.result: Generation | None = None
        self.error: BaseException | None = None
        self._stream = TextStream(options.stops)
        self._on_text = on_text
        self._parts: list[str] = []
        self._tokens: list[int] = []
        self.reused_tokens = 0
        """Of the prompt, that were in the cache."""
        self.room = 0
        """Tokens that the answer may have."""
        self.boundary = 0
        """After so many tokens of the prompt its state is kept; 0 for never."""
        self.drafted_tokens = self.accepted_tokens = 0
        """That were guessed ahead, and how many of them the answer has."""
        self.scores: list[TokenScore] = []
        """Of the answer's tokens, as they come; empty unless asked for."""
        self.prompt_scores: list[TokenScore] = []
        """Of the prompt's tokens but the first, if asked for."""
        self._sampler: Sampler | None = None
        self._started = self._first = self._last = time.perf_counter()

    @property
    def done(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.result is not None or self.error is not None

    @property
    def answering(self) -> bool:
        """Whether the prompt is computed and the answer has begun."""
        return bool(self._tokens)

    @property
    def answer(self) -> Sequence[int]:
        """The answer's tokens so far."""
        return self._tokens

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer so far."""
        return len(self.prompt) + len(self._tokens)

    @property
    def left(self) -> int:
        """Tokens that the answer may still have."""
        return min(self.options.max_tokens or self.room, self.room) - len(self._tokens)

    @property
    def always_drafts(self) -> bool:
        """Whether all that can be guessed is to be guessed."""
        return self.options.speculate == "always"

    def rest(self, held: int) -> tuple[int, ...]:
        """What is to be computed next before a token can be chosen, if the first `held` are.

        That is all that is missing, unless a state is to be kept on the way.
        """
        if held < self.boundary:
            return self.prompt[held : self.boundary]
        if held < len(self.prompt):
            return (*self.prompt[held:], *self._tokens)
        return tuple(self._tokens[held - len(self.prompt) :])

    def start(self, sampler: Sampler) -> None:
        """A slot is free: computing begins."""
        self._sampler = sampler
        self._started = self._first = self._last = time.perf_counter()

    def advance(self, context: Context, index: int, draft: Sequence[int] = ()) -> int:
        """Choose the next token by output row `index`; it may be the end.

        While that is what was drafted, the row that follows gives one more.
        What goes wrong is this job's alone: invalid logits, or a reader of the text that is gone.

        Args:
            context: Has just computed the rows: of the last token, and of each of the draft.
            index: The first of them.
            draft: Guesses at the next tokens.

        Returns:
            How many tokens of the draft are part of the answer now.
        """
        before = self.accepted_tokens
        self.drafted_tokens += len(draft)
        try:
            for count, guess in enumerate((*draft, None)):
                self._advance(context, index + count, guess)
                accepted = self.accepted_tokens - before
                if self.done or accepted == count or self.cancelled():
                    break
        except Exception as error:
            self.fail(error)
        return self.accepted_tokens - before

    def score_prompt(self, context: Context, index: int, position: int) -> None:
        """Output row `index` says how likely the prompt's token after `position` was."""
        if position + 1 < len(self.prompt):
            self.prompt_scores.append(
                score(context.logits(index), self.prompt[position + 1], self.options.scores or 0)
            )

    def cancel(self) -> None:
        """End the answer where it is."""
        if self._sampler is not None and not self._tokens:
            self._first = self._last = time.perf_counter()
        try:
            self._finish(FinishReason.CANCELLED)
        except Exception as error:  # the reader is gone
            self.fail(error)

    def end_at_limit(self) -> None:
        """There is no more room: the answer ends where it is."""
        try:
            self._finish(FinishReason.LENGTH)
        except Exception as error:  # the reader is gone
            self.fail(error)

    def _advance(self, context: Context, index: int, guess: int | None) -> None:
        assert self._sampler is not None  # noqa: S101  started before
        if self.options.max_tokens == 0:
            self._first = self._last = time.perf_counter()
            self._finish(FinishReason.LENGTH)
            return
        token = self._sampler.sample(context, index)
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        if context.model.ends_generation(token):
            self._finish(FinishReason.STOP)
            return
        self._tokens.append(token)
        self.accepted_tokens += token == guess
        if self.options.scores is not None:
            self.scores.append(score(context.logits(index), token, self.options.scores))
        self._emit(self._stream.feed(context.model.token_bytes(token)))
        if self._stream.stopped:
            self._finish(FinishReason.STOP)
        elif len(self._tokens) >= min(self.options.max_tokens or self.room, self.room):
            self._finish(FinishReason.LENGTH)

    def _finish(self, reason: FinishReason) -> None:
        self._emit(self._stream.finish())
        self.result = Generation(
            text="".join(self._parts),
            tokens=tuple(self._tokens),
            finish_reason=reason,
            prompt_tokens=len(self.prompt),
            reused_tokens=self.reused_tokens,
            prefill_seconds=self._first - self._started,
            decode_seconds=self._last - self._first,
            seed=self._sampler.seed if self._sampler else self.options.sampling.seed or 0,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )
        self._close()

    def fail(self, error: BaseException) -> None:
        """End it without an answer."""
        self.error = error
        self._close()

    def _close(self) -> None:
        """Let go of what only an answer that goes on needs.

        Who listens mostly holds the job, too. A reference cycle of the two would stay until the
        garbage collector looks at what is old, which in a server is seldom.
        """
        self._on_text = None
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _emit(self, text: str) -> None:
        if text:
            self._parts.append(text)
            if self._on_text is not None:
                self._on_text(text)


def _never() -> bool:
    return False
