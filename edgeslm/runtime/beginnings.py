"""Beginnings of prompts: taken from disk where they were computed before, kept there where not."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress

from edgeslm.errors import EdgeslmError
from edgeslm.files import identity, remembered_sha256
from edgeslm.llama import native
from edgeslm.llama.context import Context
from edgeslm.llama.model import Model
from edgeslm.llama.state import copy_state, restore_state, state_bytes
from edgeslm.runtime.prompt_states import LEAST_TOKENS, PromptStates
from edgeslm.runtime.slots import Slot
from edgeslm.runtime.state_file import Origin, StateFile


class Beginnings:
    """What lies between the slots of one context and the states on disk.

    Args:
        context: Where the slots' tokens are computed.
        states: Where they are kept.
    """

    def __init__(self, context: Context, states: PromptStates) -> None:
        self._context = context
        self._states = states
        self._hash: Future[str | None] | None = None

    def boundary(self, prompt_tokens: int, common: int) -> int:
        """After how many tokens of a prompt its state is worth keeping; 0 for nowhere.

        Args:
            prompt_tokens: All of it.
            common: With how many of them other prompts begin, too.
        """
        if not self._states.keeps or not LEAST_TOKENS <= common < prompt_tokens:
            return 0
        self._start_hash()  # it is ready when the prompt is computed
        return common

    def restore(self, slot: Slot, prompt: tuple[int, ...]) -> bool:
        """Have `slot` hold more of the beginning of `prompt` than it does, if that is known."""
        beyond = len(slot.cached) + LEAST_TOKENS - 1
        if beyond >= len(prompt) or self._states.empty:
            return False
        origin = self._origin(slot)
        found = self._states.longest(origin, prompt, beyond) if origin else None
        return found is not None and self._put(found, slot)

    def preload(self, slot: Slot, most: int) -> bool:
        """Have the empty `slot` hold what was used last, at most so many tokens."""
        if self._states.empty:
            return False
        origin = self._origin(slot)
        found = self._states.latest(origin, most) if origin else None
        return found is not None and self._put(found, slot)

    def keep(self, slot: Slot) -> None:
        """Keep what `slot` holds now."""
        origin = self._origin(slot)
        if origin is not None:
            self._states.keep(
                origin,
                slot.cached,
                state_bytes(self._context, slot.sequence),
                lambda target: copy_state(self._context, slot.sequence, target),
            )

    def _put(self, found: StateFile, slot: Slot) -> bool:
        slot.cached.clear()
        self._context.forget(sequence=slot.sequence)
        try:
            if not restore_state(self._context, slot.sequence, found.state):
                return False
        finally:
            found.close()
        slot.cached += found.head.tokens
        slot.most = max(slot.most, len(slot.cached))
        self._states.restored += 1
        return True

    def _origin(self, slot: Slot) -> Origin | None:
        """What computes in `slot`; None if the model's file is no longer there."""
        digest = self._start_hash().result()
        adapter = "" if slot.adapter is None else slot.adapter.digest
        return None if digest is None else origin_of(self._context, digest, adapter)

    def _start_hash(self) -> Future[str | None]:
        """Of the model's file: it takes its time, and elsewhere."""
        if self._hash is None:
            model = self._context.model
            self._hash = self._states.work_out(lambda: hash_of(model))
        return self._hash


def hash_of(model: Model) -> str | None:
    """The hash of the file that was loaded; None if it is no longer there."""
    with suppress(EdgeslmError):
        if identity(model.path) == model.identity:
            digest = remembered_sha256(model.path)
            if identity(model.path) == model.identity:
                return digest
    return None


def origin_of(context: Context, model_hash: str, adapter: str = "") -> Origin:
    """What states that are computed in `context` depend on.

    Args:
        context: Where they are computed.
        model_hash: Of its model's file.
        adapter: What tells its adapter from others; empty where there is none.
    """
    options = context.options
    parts = [native.build_info().binding, f"flash attention {options.flash_attention}"]
    trained = context.model.hyper("rope.scaling.original_context_length")
    if trained:  # some models turn positions otherwise where the context is longer
        parts.append("long" if context.sequence_length > trained else "short")
    return Origin(model_hash, ", ".join(parts), options.kv_type, adapter)
