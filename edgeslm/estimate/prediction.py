"""Memory, speed and energy of a model on a target, in one record."""

from __future__ import annotations

from edgeslm.errors import InvalidOption
from edgeslm.estimate.cache import can_hold
from edgeslm.estimate.energy import decode_joules_per_token
from edgeslm.estimate.memory import plan_memory
from edgeslm.estimate.speed import decode_tokens_per_second, prefill_tokens_per_second
from edgeslm.gguf.reader import Header
from edgeslm.records import MemoryPlan, Prediction
from edgeslm.targets.target import Target


def predict(
    header: Header,
    target: Target,
    *,
    context_length: int | None = None,
    kv_type: str | None = None,
) -> Prediction:
    """What is expected of the model on `target`.

    Args:
        header: The model.
        target: The board; the context and the cache are its defaults unless they are given.
        context_length: Tokens of context.
        kv_type: Tensor type of the KV cache.

    Raises:
        InvalidOption: a context of no tokens, or `kv_type` is no type for a cache.
        InvalidGGUF: the header lacks a hyperparameter.
    """
    if context_length is None:
        context_length = target.defaults.context_length
    if kv_type is None:
        kv_type = usual_kv_type(header, target)
    if context_length < 1:
        raise InvalidOption(
            f"a context needs at least one token, not {context_length}",
            hint="Try 2048.",
        )
    memory = plan_memory(
        header, context_length=context_length, kv_type=kv_type, features=target.features
    )
    decode = decode_tokens_per_second(
        header, target, context_length=context_length, kv_type=kv_type
    )
    return Prediction(
        target=target.id,
        target_name=target.name,
        context_length=context_length,
        memory=memory,
        memory_free_bytes=target.memory.free_bytes,
        fits=fits_in(memory, target),
        prefill_tokens_per_second=prefill_tokens_per_second(header, target),
        decode_tokens_per_second=decode,
        decode_joules_per_token=decode_joules_per_token(target, decode),
    )


def usual_kv_type(header: Header, target: Target) -> str:
    """The target's default type of cache, F16 where the model's heads cannot be kept in it."""
    usual = target.defaults.kv_type
    return usual if can_hold(header, usual) else "F16"


def fits_in(memory: MemoryPlan, target: Target) -> bool | None:
    """Whether the plan fits what is free; None where that is unknown and the total suffices."""
    if (free := target.memory.free_bytes) is not None:
        return memory.needed_bytes <= free
    total = target.memory.total_bytes.value
    return False if total is not None and memory.needed_bytes > total else None
