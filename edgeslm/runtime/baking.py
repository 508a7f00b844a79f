"""The state of a system prompt, computed before the model is on its device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import OutputFailure, PromptTooLong
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.prompt_states import LEAST_TOKENS, PromptStates
from edgeslm.runtime.session import Session

_ANYTHING = "Hello"


@dataclass(frozen=True)
class Baker:
    """Computes states of system prompts, with so many threads."""

    threads: int

    def check(self, model: Path, system: str, context_length: int) -> None:
        """Return if the model can be told that: to be asked before long work on it.

        Args:
            model: A GGUF file with the vocabulary and the template of the one to be.
            system: What the model is told about its task.
            context_length: Tokens of context on the device.

        Raises:
            UserError: the model has no chat template, or one that knows no system message, or the
                prompt does not fit into the context.
        """
        with Model(model) as opened:
            _encoded(PromptEncoder(opened), system, context_length)

    def bake(
        self, model: Path, system: str, folder: Path, context_length: int, kv_type: str
    ) -> Path | None:
        """Compute a system prompt, and keep the state of the KV cache after it.

        Args:
            model: A GGUF file.
            system: What the model is told about its task.
            folder: Where the file goes; there is no other state in it.
            context_length: Tokens of context on the device.
            kv_type: The type of its cache.

        Returns:
            The file; None for a prompt so short that a state of it is no use.

        Raises:
            UserError: as from `check`.
            OutputFailure: the file cannot be written.
        """
        with Model(model) as opened:
            tokens, keep = _encoded(PromptEncoder(opened), system, context_length)
            if keep < LEAST_TOKENS:
                return None
            generation = GenerationOptions(1, sampling=SamplingOptions(temperature=0), keep=keep)
            options = ContextOptions(context_length, kv_type=kv_type, threads=self.threads)
            with (
                PromptStates(folder, most_bytes=1 << 62) as states,
                Session(opened, options, states) as session,
            ):
                session.generate(tokens, generation)
        made = states.files()
        if not made:
            raise OutputFailure(
                f"cannot write the state of the system prompt to {folder}", hint="Is the disk full?"
            )
        return made[0]


def _encoded(encoder: PromptEncoder, system: str, context_length: int) -> tuple[list[int], int]:
    """A conversation's tokens, and how many of them the system prompt makes."""
    messages = [Message("system", system), Message("user", _ANYTHING)]
    tokens = encoder.encode_messages(messages)
    if len(tokens) >= context_length:
        raise PromptTooLong(
            f"the system prompt takes {len(tokens)} tokens of a context of {context_length}",
            hint="Shorten it, or give a longer --context.",
        )
    return tokens, encoder.beginning(tokens, messages)
