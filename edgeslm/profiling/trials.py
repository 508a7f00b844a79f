"""Single timed runs of a model with one setting after the other, the model loaded once.

Threads are changed in an open context; another micro-batch or type of cache needs a context of its
own, of which two stay open. Runs on certain cores only are made by a thread that is kept on them:
the threads that compute for it are started by it, and stay there too.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.runtime.cores import pin
from edgeslm.runtime.tuned import Choice

_SEED = 0
_OPEN_CONTEXTS = 2
_WARM_TOKENS = 32


class Interrupted(Exception):
    """The run was given up because the trials are being closed; nobody waits for it."""


@dataclass(frozen=True)
class Lengths:
    """Of the runs.

    Attributes:
        context: Tokens of the contexts.
        prompt: Tokens of a prefill run.
        generated: Tokens of a decode run.
        depth: Tokens in the KV cache when a decode run starts.
    """

    context: int
    prompt: int
    generated: int
    depth: int


class _Open:
    """A context, how many tokens its cache holds if known, and with which threads it has run."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.filled: int | None = None
        self.warm: set[tuple[int, int, tuple[int, ...] | None]] = set()


class Trials(Closing):
    """Close it, or use it as a context manager: a run under way is then given up.

    Args:
        model: Stays open, and is not closed.
        lengths: Of the runs; may be changed between them, but for the context's.
    """

    def __init__(self, model: Model, lengths: Lengths) -> None:
        self.model = model
        self.lengths = lengths
        self._contexts: OrderedDict[tuple[int, str], _Open] = OrderedDict()
        self._lanes: dict[tuple[int, ...] | None, ThreadPoolExecutor] = {}
        self._closing = False

    def close(self) -> None:
        """End the run under way, and free the contexts."""
        self._closing = True
        for lane in self._lanes.values():
            lane.shutdown()
        for each in self._contexts.values():
            each.context.close()
        self._contexts.clear()

    def prefill(self, choice: Choice) -> float:
        """Tokens per second of one prefill from an empty cache."""
        return self._run(choice, self._prefill)

    def decode(self, choice: Choice) -> float:
        """Tokens per second of one decode run."""
        return self._run(choice, self._decode)

    def _run(self, choice: Choice, measure: Callable[[_Open], float]) -> float:
        def run() -> float:
            opened = self._opened(choice)
            opened.context.set_threads(choice.threads, choice.prefill_threads)
            self._warm_up(opened, choice)
            return measure(opened)

        return self._lane(choice.cores).submit(run).result()

    def _lane(self, cores: tuple[int, ...] | None) -> ThreadPoolExecutor:
        """The thread that is kept on these cores."""
        if cores not in self._lanes:
            self._lanes[cores] = ThreadPoolExecutor(1, "edgeslm-trials", pin, (cores,))
        return self._lanes[cores]

    def _opened(self, choice: Choice) -> _Open:
        key = choice.ubatch, choice.kv_type
        if key not in self._contexts:
            while len(self._contexts) >= _OPEN_CONTEXTS:
                self._contexts.popitem(last=False)[1].context.close()
            options = ContextOptions(
                length=self.lengths.context, ubatch=choice.ubatch, kv_type=choice.kv_type
            )
            self._contexts[key] = _Open(Context(self.model, options))
        self._contexts.move_to_end(key)
        return self._contexts[key]

    def _warm_up(self, opened: _Open, choice: Choice) -> None:
        """Start the threads before the clock does."""
        kind = (choice.threads, choice.prefill_threads, choice.cores)
        if kind in opened.warm:
            return
        opened.warm.add(kind)
        opened.context.forget()
        opened.filled = None
        count = min(_WARM_TOKENS, opened.context.length - 1)
        self._read(opened.context, count)
        opened.context.step(self._tokens(1)[0], count)
        opened.context.forget()

    def _prefill(self, opened: _Open) -> float:
        opened.context.forget()
        opened.filled = None
        started = time.perf_counter()
        self._read(opened.context, self.lengths.prompt)
        return self.lengths.prompt / (time.perf_counter() - started)

    def _decode(self, opened: _Open) -> float:
        depth = self.lengths.depth
        self._fill(opened, depth)
        opened.filled = None
        tokens = self._tokens(self.lengths.generated)
        started = time.perf_counter()
        for index, token in enumerate(tokens):
            if self._closing:
                raise Interrupted
            opened.context.step(token, depth + index)
            opened.context.synchronize()
        seconds = time.perf_counter() - started
        if opened.context.forget(depth):
            opened.filled = depth
        return len(tokens) / seconds

    def _fill(self, opened: _Open, depth: int) -> None:
        """Have the cache hold just so many tokens; those of the run before mostly still do."""
        if opened.filled == depth:
            return
        opened.context.forget()
        if depth:
            self._read(opened.context, depth)

    def _read(self, context: Context, count: int) -> None:
        context.prefill(self._tokens(count), cancelled=lambda: self._closing)
        context.synchronize()

    def _tokens(self, count: int) -> list[int]:
        generator = random.Random(_SEED)  # noqa: S311 - reproducible, not secret
        return [generator.randrange(self.model.vocabulary_size) for _ in range(count)]
