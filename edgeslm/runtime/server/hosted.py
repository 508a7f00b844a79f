"""A model under the name by which clients ask for it, with all that is needed to answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import Busy, InvalidOption, UserError
from edgeslm.llama import pages
from edgeslm.llama.adapter import Adapter
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import ContextOptions, rows_of_logits
from edgeslm.llama.embedder import Embedder
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.cores import pin
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import Speculate
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.prompt_states import PromptStates, states_folder
from edgeslm.runtime.tuned import Settled, settle

_T = TypeVar("_T")


@dataclass(frozen=True)
class HostOptions:
    """How a model is served.

    Attributes:
        slots: Answers computed at a time.
        context: Tokens that one prompt and its answer may have together.
        queue: Requests that may wait for a slot.
        kv_type: Type of cached keys and values; `AUTO` for the one that was tuned.
        ubatch: Tokens of a prompt that are computed at once; None for what was tuned.
        threads: Threads to compute with; None for as many as were tuned, or as help here.
        sampling: What is not said in a request.
        grammars: Whether requests may give a grammar of their own. llama.cpp follows any, however
            long that takes, and cannot be stopped.
        template: A chat template to use instead of the model's own.
        system: What the model is told if a conversation begins without a system message.
        states: Files of prompts' states that came with the model.
        state_bytes: Disk space for more of them.
        speculate: As in `GenerationOptions`.
        draft: A smaller model of the same vocabulary that guesses what comes.
    """

    slots: int = 4
    context: int = 2048
    queue: int = 64
    kv_type: str = "F16"
    ubatch: int | None = None
    threads: int | None = 1
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    grammars: bool = False
    template: str | None = None
    system: str | None = None
    states: tuple[Path, ...] = ()
    state_bytes: int = 0
    speculate: Speculate = "auto"
    draft: Path | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("slots", 1, 64), ("queue", 0, 100_000)):
            if not least <= getattr(self, name) <= most:
                raise InvalidOption(
                    f"{name} must be {least} to {most}, not {getattr(self, name)}",
                    hint="Leave it out to get a sensible default.",
                )


class Hosted(Closing):
    """Close it, or use it as a context manager.

    Args:
        name: By which clients ask for it.
        path: A GGUF file.
        options: How it is served.
        turn: Held while something is computed; models that share it take turns. None for one alone.
    """

    adapter: Adapter | None = None
    """What changes the model: nothing here, something in a `Specialist`."""

    def __init__(
        self,
        name: str,
        path: Path,
        options: HostOptions,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.created = int(time.time())
        self.states = PromptStates(states_folder(), options.state_bytes, options.states)
        self.model = Model(path)
        self._draft: Model | None = None
        try:
            if options.draft is not None:
                self._draft = Model(options.draft)
            self.encoder = PromptEncoder(self.model, options.template)
            with suppress(UserError) if options.template is None else nullcontext():
                self.encoder.require_template()  # now, and not while the first client waits
            self._turn: AbstractContextManager[object] = turn or nullcontext()
            self._settled = self._settle()
            self._engine = self._start(turn) if self.model.can_generate else None
        except BaseException:
            self._close_models()
            raise
        self._embedder: Embedder | None = None
        self._adapters: list[Adapter] = []
        self._vectors: set[Future[NDArray[np.float32]]] = set()
        self._alone = ThreadPoolExecutor(1, "edgeslm-embedder", pin, (self._settled.cores,))

    def close(self) -> None:
        """Cancel what is not answered, and free the model."""
        self.cut_off()
        if self._engine is not None:
            self._engine.close()
        self.states.close()
        self._alone.shutdown()
        if self._embedder is not None:
            self._embedder.close()
        for adapter in self._adapters:
            adapter.close()
        self._close_models()

    def _close_models(self) -> None:
        for model in (self._draft, self.model):
            if model is not None:
                model.close()

    def specialist(self, name: str, path: Path, strength: float = 1.0) -> Specialist:
        """The same model, changed by the adapter in a file, under another name.

        Raises:
            EdgeslmError: it is no adapter for this model.
        """
        adapter = Adapter(self.model, path, strength)
        self._adapters.append(adapter)
        return Specialist(name, self, adapter)

    @property
    def engine(self) -> Engine:
        """What generates.

        Raises:
            UserError: it is an embedding model.
        """
        if self._engine is None:
            raise UserError(
                f"{self.name} is an embedding model, it generates no text",
                hint="Ask /v1/embeddings.",
            )
        return self._engine

    @property
    def length(self) -> int:
        """Tokens that one prompt and its answer may have together."""
        return self._engine.length if self._engine is not None else self.options.context

    @property
    def open_requests(self) -> int:
        """Answers and vectors that are computed or wait."""
        answers = self._engine.open_requests if self._engine is not None else 0
        return answers + len(self._vectors)

    def cut_off(self) -> None:
        """End all answers where they are."""
        for future in tuple(self._vectors):
            future.cancel()
        if self._engine is not None:
            self._engine.cancel_all()

    def refuse_if_busy(self, requests: int = 1) -> None:
        """Return if so many more answers may wait; if none does, as many as one request may want.

        Raises:
            Busy: the queue is full.
        """
        waiting = self.open_requests
        if waiting and waiting + requests > self.options.slots + self.options.queue:
            raise Busy("too many requests are waiting", hint="Try again later.")

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Future[NDArray[np.float32]]]:
        """Vectors of token ids, one after the other between the steps of answers."""
        futures = [self._between(partial(self._embed, tokens)) for tokens in texts]
        for future in futures:
            self._vectors.add(future)
            future.add_done_callback(self._vectors.discard)
        return futures

    def _embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self._embedder is None:
            threads = self._settled.options.threads
            self._embedder = Embedder(self.model, self.options.context, threads)
        return self._embedder.embed(tokens)

    def _between(self, task: Callable[[], _T]) -> Future[_T]:
        if self._engine is not None:
            return self._engine.run(task)

        def in_turn() -> _T:
            with self._turn:
                return task()

        return self._alone.submit(in_turn)

    def _start(self, turn: AbstractContextManager[object] | None) -> Engine:
        with self._turn:  # nobody else makes buffers while unused pages are looked for
            # Read ahead when it was mapped, it would count beside the cache while that is cleared.
            pages.give_back_file(self.model.path)
            return Engine(
                self.model,
                self._settled.options,
                turn=turn,
                states=self.states,
                draft=self._draft,
                cores=self._settled.cores,
            )

    def _settle(self) -> Settled:
        """What it runs with: what was asked for, and what was tuned for the rest."""
        options = self.options
        context = ContextOptions(
            length=options.context * options.slots,
            sequences=options.slots,
            outputs=max(options.slots, rows_of_logits(self.model)),
            as_it_fills=True,
            threads=1 if options.threads is None else options.threads,
        )
        settled = settle(
            self.model.header, context, threads=options.threads, kv_type=options.kv_type
        )
        ubatch = options.ubatch or settled.options.ubatch
        batch = max(settled.options.batch, ubatch)
        return replace(settled, options=replace(settled.options, ubatch=ubatch, batch=batch))


class Specialist:
    """A model changed by an adapter; it shares all but that with the model itself.

    Args:
        name: By which clients ask for it.
        base: What it shares.
        adapter: What it does not.
    """

    def __init__(self, name: str, base: Hosted, adapter: Adapter) -> None:
        self.name = name
        self.base = base
        self.adapter = adapter
        self.created = base.created
        self.options = base.options
        self.model = base.model
        self.encoder = base.encoder
        self.length = base.length

    @property
    def engine(self) -> Engine:
        """What generates."""
        return self.base.engine

    def refuse_if_busy(self, requests: int = 1) -> None:
        """Return if so many more answers may wait.

        Raises:
            Busy: the queue is full.
        """
        self.base.refuse_if_busy(requests)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Future[NDArray[np.float32]]]:
        """Nothing: an adapter is trained for text.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.name} makes no vectors of {len(texts)} texts", hint=f"Ask {self.base.name}."
        )


Served = Hosted | Specialist
"""What clients can ask for."""
