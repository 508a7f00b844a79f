"""Made-up tensors to allocate types to: small ones that can be tried out in full, large ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from edgeslm.gguf.types import tensor_type
from edgeslm.packager.quantize.allocation import Candidate, Limits, Options

KIND = tensor_type("Q8_0")
TYPES = [
    tensor_type(name)
    for name in (
        *("Q1_0", "Q2_0", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS"),
        *("IQ3_S", "Q3_K", "IQ4_XS", "IQ4_NL", "MXFP4", "NVFP4", "Q4_0", "Q4_1", "Q4_K"),
        *("Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "F16", "F32"),
    )
]


@st.composite
def small(draw: Any, largest: int = 5) -> list[Options]:
    """Up to `largest` tensors with up to four candidates, bytes and seconds unrelated."""
    candidates = st.builds(
        Candidate,
        type=st.just(KIND),
        bytes=st.integers(1, 60),
        score=st.floats(0, 100, allow_nan=False),
        seconds=st.integers(0, 60).map(float),
    )
    lists = draw(st.lists(st.lists(candidates, min_size=1, max_size=4), max_size=largest))
    return [Options(f"t{index}", tuple(entries)) for index, entries in enumerate(lists)]


def like_a_model(tensors: int, seed: int) -> list[Options]:
    """Tensors of the sizes in a small model, one of them an embedding of a third of it.

    Scores fall fourfold with each bit, scattered; each type is read at a rate of its own.
    """
    draw = random.Random(seed)
    rates = {kind.name: draw.uniform(3e9, 12e9) for kind in TYPES}
    options = []
    for index in range(tensors):
        elements = 256 * draw.choice([192, 576, 1536, 2048]) * draw.choice([1, 2, 4])
        if index == 0:
            elements = tensors * 256 * 300
        gain = draw.lognormvariate(0, 1.5) * elements / 1e5
        entries = []
        for kind in TYPES:
            count = kind.bytes_for((elements,))
            score = gain * 4.0**-kind.bits_per_weight * draw.lognormvariate(0, 0.3)
            entries.append(Candidate(kind, count, score, count / rates[kind.name]))
        options.append(Options(str(index), tuple(entries)))
    return options


def best_score(options: Sequence[Options], limits: Limits) -> float | None:
    """Of all combinations that keep the limits, by trying each; None where none does."""
    scores = [
        sum(entry.score for entry in chosen)
        for chosen in itertools.product(*(item.candidates for item in options))
        if limits.hold(sum(entry.bytes for entry in chosen), sum(entry.seconds for entry in chosen))
    ]
    return min(scores, default=None)


def spread(options: Sequence[Options], name: str) -> tuple[float, float]:
    """The least and the most of `name` (bytes, seconds) that any mix takes."""
    values = [[getattr(entry, name) for entry in item.candidates] for item in options]
    return sum(map(min, values)), sum(map(max, values))


def largest_step(options: Sequence[Options], name: str) -> float:
    """The most by which changing one tensor can change `name`."""
    values = [[getattr(entry, name) for entry in item.candidates] for item in options]
    return max((max(each) - min(each) for each in values), default=0)
