"""From logits to the next token: options, and the native chain built from them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.llama import native
from edgeslm.llama.context import Context
from edgeslm.llama.model import Model


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen. The order of the steps is llama.cpp's own.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more varied.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the likeliest tokens that together reach this probability; 1 keeps all.
        min_p: Drop tokens less likely than this fraction of the likeliest; 0 keeps all.
        repeat_penalty: Divide the logits of recent tokens by this; 1 does nothing.
        repeat_window: How many recent tokens count as recent.
        seed: The same seed gives the same draws; None takes a random one.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_window: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 10, "temperature", self.temperature, "0 to 10")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0, up to 1")
        _require(0 <= self.min_p < 1, "min-p", self.min_p, "0 to below 1")
        _require(0 < self.repeat_penalty <= 10, "repeat-penalty", self.repeat_penalty, "above 0")
        _require(self.repeat_window >= 0, "repeat-window", self.repeat_window, "0 or more")
        _require(self.seed is None or 0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidOption(f"{name} is out of range: {value}", hint=f"Allowed: {allowed}.")


class Sampler:
    """A native sampler chain; chooses tokens and remembers them for the penalties."""

    def __init__(self, model: Model, options: SamplingOptions) -> None:
        lib = native.library()
        self.options = options
        self.seed = secrets.randbits(32) if options.seed is None else options.seed
        self._chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for step in _steps(lib, model, options, self.seed):
            lib.llama_sampler_chain_add(self._chain, step)

    def close(self) -> None:
        """Free the chain and its steps."""
        if self._chain is not None:
            native.library().llama_sampler_free(self._chain)
            self._chain = None

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose the token that follows output row `index`, and remember it.

        Raises:
            NativeFailure: the logits are not numbers; the weights are damaged.
        """
        # One NaN makes the sum NaN. llama.cpp would end the process on it.
        if np.isnan(context.logits(index).sum()):
            raise NativeFailure(
                "the model computed no valid probabilities (NaN): its weights are damaged",
                hint="Fetch or convert the model again.",
            )
        return int(native.library().llama_sampler_sample(self._chain, context.handle, index))


def _steps(lib: Any, model: Model, options: SamplingOptions, seed: int) -> list[Any]:
    """The chain's steps in order; steps that would change nothing are left out."""
    steps: list[Any] = []
    if options.repeat_penalty != 1 and options.repeat_window:
        steps.append(
            lib.llama_sampler_init_penalties(
                model.vocabulary_size, options.repeat_window, options.repeat_penalty, 0.0, 0.0
            )
        )
    if options.temperature == 0:
        return [*steps, lib.llama_sampler_init_greedy()]
    if options.top_k:
        steps.append(lib.llama_sampler_init_top_k(options.top_k))
    if options.top_p < 1:
        steps.append(lib.llama_sampler_init_top_p(options.top_p, 1))
    if options.min_p:
        steps.append(lib.llama_sampler_init_min_p(options.min_p, 1))
    steps.append(lib.llama_sampler_init_temp(options.temperature))
    steps.append(lib.llama_sampler_init_dist(seed))
    return steps
