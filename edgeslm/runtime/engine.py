"""A model that answers several threads at once: one thread computes, the others wait or listen."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from edgeslm.errors import NativeFailure
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.runtime.cores import pin
from edgeslm.runtime.draft_model import DraftModel
from edgeslm.runtime.generation import Generation, GenerationOptions, OnText
from edgeslm.runtime.governor import governor_of
from edgeslm.runtime.job import Job
from edgeslm.runtime.prompt_states import PromptStates
from edgeslm.runtime.scheduler import Scheduler
from edgeslm.runtime.session import require_generating

_T = TypeVar("_T")


class Ticket:
    """A request that is handed in; the arguments are those of `Engine.submit`."""

    def __init__(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        on_text: OnText | None = None,
    ) -> None:
        self._cancelled = threading.Event()
        self._future: Future[Generation] = Future()
        self.job = Job(prompt, options, on_text=on_text, cancelled=self._cancelled.is_set)

    def cancel(self) -> None:
        """End the answer at its next token; `result` gives what there is."""
        self._cancelled.set()

    def result(self, timeout: float | None = None) -> Generation:
        """Wait for the end of the answer.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Raises:
            TimeoutError: it is not done by then; it goes on.
            EdgeslmError: it failed.
        """
        return self._future.result(timeout)

    def when_done(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `result` has something to give, in whatever thread.

        It is let go of then, since it may hold this ticket: no reference cycle stays behind.
        """
        once = [callback]
        self._future.add_done_callback(lambda _: once.pop()())

    def settle(self) -> bool:
        """Tell those who wait if the job is done; whether it is."""
        if self.job.error is not None:
            self._future.set_exception(self.job.error)
        elif self.job.result is not None:
            self._future.set_result(self.job.result)
        return self.job.done


class Engine(Closing):
    """Close it, or use it as a context manager: what is not answered then is cancelled.

    Args:
        model: Stays open, and is not closed, by the engine.
        options: Size and shape of the context; `sequences` answers are computed at a time.
        turn: Held while something is computed: engines that share one take turns.
        states: Where beginnings of prompts are kept on disk; closed by whoever opened it. What
            was used last is there again from the start.
        draft: A smaller model of the same vocabulary that guesses; stays open too.
        governed: Whether fewer threads are used while other programs or heat ask for it.
        cores: The only cores to compute on; None for any.
    """

    def __init__(
        self,
        model: Model,
        options: ContextOptions,
        *,
        turn: AbstractContextManager[object] | None = None,
        states: PromptStates | None = None,
        draft: Model | None = None,
        governed: bool = True,
        cores: Collection[int] | None = None,
    ) -> None:
        require_generating(model)
        self.model = model
        self._draft = None if draft is None else DraftModel(draft, model, options)
        self.context = Context(model, options)
        self._scheduler = Scheduler(self.context, states, self._draft)
        self._scheduler.governor = governor_of(self.context, cores) if governed else None
        self._scheduler.before_decode = self._tell
        self._cores = cores
        self._turn: AbstractContextManager[object] = turn or nullcontext()
        self.computes_alone = turn is None
        """Whether no other engine takes turns with it."""
        self._changed = threading.Condition()
        self._incoming: list[Ticket] = []
        self._open: list[Ticket] = []
        self._tasks: deque[Callable[[], None]] = deque()
        self._at_step_end: dict[Callable[[], None], None] = {}
        self._told = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="edgeslm-engine", daemon=True)
        self.run(self._scheduler.preload)
        self._thread.start()

    @property
    def length(self) -> int:
        """Tokens that one prompt and its answer may have together."""
        return self._scheduler.length

    def submit(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        *,
        on_text: OnText | None = None,
    ) -> Ticket:
        """Have `prompt` continued; returns at once.

        Args:
            prompt: Token ids.
            options: How to generate.
            on_text: Called with each piece of text, in the engine's thread: it must not wait.

        Raises:
            UserError: the prompt is empty or does not fit into the context.
            NativeFailure: the engine is closed.
        """
        return self.accept(Ticket(prompt, options, on_text))

    def accept(self, ticket: Ticket) -> Ticket:
        """The same as `submit`, for whoever needs the ticket before the first text comes."""
        self._scheduler.check(ticket.job)
        with self._changed:
            self._refuse_if_closing()
            self._incoming.append(ticket)
            self._changed.notify()
        return ticket

    def run(self, task: Callable[[], _T]) -> Future[_T]:
        """Have `task` run between two steps, where it computes alone; returns at once.

        Raises:
            NativeFailure: the engine is closed.
        """
        future: Future[_T] = Future()

        def attempt() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:
                    future.set_exception(error)

        with self._changed:
            self._refuse_if_closing()
            self._tasks.append(attempt)
            self._changed.notify()
        return future

    def at_step_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, in the engine's thread, when the step is over that it is in.

        If another follows at once, that is put together first: who is told needs Python's lock, and
        has it for himself while llama.cpp computes. Only for what the engine calls itself: what
        listens to text, or to the end of an answer.
        """
        self._at_step_end[callback] = None

    @property
    def open_requests(self) -> int:
        """Requests that are not answered yet."""
        with self._changed:
            return len(self._incoming) + len(self._open)

    def cancel_all(self) -> None:
        """End all answers where they are, those that wait too."""
        with self._changed:
            for ticket in (*self._open, *self._incoming):
                ticket.cancel()

    def close(self) -> None:
        """Cancel what is not answered, and free the context."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
        self.cancel_all()
        self._thread.join()
        self._scheduler.close()
        self.context.close()
        if self._draft is not None:
            self._draft.close()

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise NativeFailure("the engine is closed", hint="Start it again.")

    def _run(self) -> None:
        pin(self._cores)
        while self._take():
            with self._turn:
                if self._tasks:  # one at a time, so that answers go on
                    self._tasks.popleft()()
                self._told = False
                try:
                    self._scheduler.step()
                except Exception as error:  # a mistake of ours must not leave others waiting either
                    self._scheduler.reset(error)
            with self._changed:
                self._open = [ticket for ticket in self._open if not ticket.settle()]
                at_once = (
                    self.computes_alone and self._open and not self._tasks and not self._incoming
                )
            if not (at_once and self._told):
                self._tell()

    def _tell(self) -> None:
        self._told = True
        callbacks, self._at_step_end = self._at_step_end, {}
        for callback in callbacks:
            callback()

    def _take(self) -> bool:
        """Wait for something to do and accept new requests; False once all is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._incoming or self._open or self._tasks or self._closing
            )
            incoming, self._incoming = self._incoming, []
            self._open += incoming
            for ticket in incoming:
                self._scheduler.submit(ticket.job)
            return bool(self._tasks or self._open)
