"""What a model says next to a short text, as figures that another machine can be held to.

Other instruction sets add in another order and round differently, so nothing is expected to be the
same bit for bit. What is the same is how likely the likeliest tokens are, nearly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeslm.llama.context import Context, ContextOptions, require_numbers
from edgeslm.llama.model import Model
from edgeslm.records import LikelyTokens, Probe

_TEXT = (
    "The quick brown fox jumps over the lazy dog. In 1969, two people walked on the moon; "
    "def add(a, b): return a + b. Paris is the capital of"
)
_PROMPT_TOKENS = 32
_STEPS = 16
_LIKELIEST = 16
_DECIMALS = 5
_CONTEXT_LENGTH = 256

Row = NDArray[np.float64]


def make_probe(model: Model) -> Probe | None:
    """What an open model says next to a text, step by step; None where it says nothing.

    Computed with one thread, so that it is the same every time on one kind of machine.

    Raises:
        NativeFailure: what it computes is no number.
    """
    if not model.can_generate:
        return None
    prompt = model.tokenize(_TEXT, add_special=True, parse_special=False)[:_PROMPT_TOKENS] or [0]
    said: list[int] = []
    likeliest = []
    with probing_context(model, threads=1) as context:
        for row in _rows(context, prompt, said):
            order = np.lexsort((np.arange(len(row)), -row))[:_LIKELIEST]
            said.append(int(order[0]))
            values = tuple(round(float(row[token]), _DECIMALS) for token in order)
            likeliest.append(LikelyTokens(tuple(map(int, order)), values))
            if len(said) == _STEPS:
                break
    return Probe(tuple(prompt), tuple(said), tuple(likeliest))


def answers(context: Context, probe: Probe) -> Iterator[tuple[int, float]]:
    """For each step of a probe: the token that is likeliest here, and the divergence.

    The divergence is that of Kullback and Leibler, in nats, of what is likely here from what was
    likely there, over the tokens that the probe lists and all others as one.

    Raises:
        NativeFailure: what is computed here is no number.
    """
    for row, listed in zip(
        _rows(context, probe.prompt, probe.continuation), probe.likeliest, strict=False
    ):
        yield int(row.argmax()), divergence(listed, row)


def divergence(listed: LikelyTokens, row: Row) -> float:
    """Of a row of log-probabilities, shape (vocabulary,), from the listed ones, in nats."""
    there = np.asarray(listed.log_probabilities)
    here = row[list(listed.tokens)]
    rest_there, rest_here = (max(1e-9, 1 - float(np.exp(each).sum())) for each in (there, here))
    shared = float((np.exp(there) * (there - here)).sum())
    return shared + rest_there * float(np.log(rest_there / rest_here))


def probing_context(model: Model, threads: int) -> Context:
    """A context in which probes are made and answered."""
    options = ContextOptions(
        length=_CONTEXT_LENGTH, batch=_PROMPT_TOKENS, ubatch=_PROMPT_TOKENS, threads=threads
    )
    return Context(model, options)


def _rows(context: Context, prompt: Sequence[int], said: Sequence[int]) -> Iterator[Row]:
    """Log-probabilities of what comes after the prompt, and after each token that is said."""
    context.prefill(list(prompt))
    yield _log_probabilities(context)
    for index in range(_CONTEXT_LENGTH - len(prompt)):
        if index >= len(said):
            return
        context.step(said[index], len(prompt) + index)
        yield _log_probabilities(context)


def _log_probabilities(context: Context) -> Row:
    computed = context.logits()
    require_numbers(context.model, computed[np.newaxis])
    logits = computed.astype(np.float64)
    logits -= logits.max()
    row: Row = logits - np.log(np.exp(logits).sum())
    return row
