"""One conversation with a model: prefill what is new, decode until it ends, count the time.

The KV cache keeps the previous prompt and answer; the next prompt is compared with it and
only what differs is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.errors import UserError
from edgeslm.llama.closing import Closing
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.runtime.draft_model import DraftModel
from edgeslm.runtime.generation import Cancelled, Generation, GenerationOptions, OnText
from edgeslm.runtime.governor import governor_of
from edgeslm.runtime.job import Job
from edgeslm.runtime.prompt_states import PromptStates
from edgeslm.runtime.scheduler import Scheduler


class Session(Closing):
    """A model with a context of its own. Close it, or use it as a context manager.

    Args:
        model: Stays open, and is not closed, by the session.
        options: Size and shape of the context. With more than one row of `outputs`, tokens may be
            guessed ahead.
        states: Where beginnings of prompts are kept on disk; closed by whoever opened it.
        draft: A smaller model of the same vocabulary that guesses; stays open too.
        governed: Whether fewer threads are used while other programs or heat ask for it.

    Raises:
        UserError: the model generates no text, or the draft model does not fit it.
    """

    def __init__(
        self,
        model: Model,
        options: ContextOptions,
        states: PromptStates | None = None,
        draft: Model | None = None,
        *,
        governed: bool = True,
    ) -> None:
        require_generating(model)
        self.model = model
        self._draft = None if draft is None else DraftModel(draft, model, options)
        self.context = Context(model, options)
        self._scheduler = Scheduler(self.context, states, self._draft)
        self._scheduler.governor = governor_of(self.context) if governed else None

    def close(self) -> None:
        """Free the context."""
        self._scheduler.close()
        self.context.close()
        if self._draft is not None:
            self._draft.close()

    def generate(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        *,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> Generation:
        """Continue `prompt`.

        Args:
            prompt: Token ids, at least one.
            options: How to generate.
            on_text: Called with each piece of text as soon as it is certain.
            cancelled: Asked between tokens, and during prefill; True ends the answer.

        Raises:
            UserError: the prompt is empty or does not fit into the context.
            NativeFailure: llama.cpp failed.
        """
        job = Job(prompt, options, on_text=on_text, cancelled=cancelled)
        self._scheduler.submit(job)
        try:
            while not job.done:
                self._scheduler.step()
            if job.error is not None:
                raise job.error
        except BaseException as error:
            self._scheduler.reset(error)
            raise
        assert job.result is not None  # noqa: S101  done without an error
        return job.result


def require_generating(model: Model) -> None:
    """Return if `model` generates text.

    Raises:
        UserError: it is an embedding model.
    """
    if not model.can_generate:
        raise UserError(
            f"{model.path}: this is an embedding model, it generates no text",
            hint="Choose a language model.",
        )
