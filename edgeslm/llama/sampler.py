"""From logits to the next token: options, and the native chain built from them."""

from __future__ import annotations

import ctypes
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.llama import native
from edgeslm.llama.candidates import Candidates
from edgeslm.llama.context import Context
from edgeslm.llama.grammar import Grammar, refuse_dead_end
from edgeslm.llama.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen. The order of the steps is llama.cpp's own.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more varied.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the likeliest tokens that together reach this probability; 1 keeps all.
        min_p: Drop tokens less likely than this fraction of the likeliest; 0 keeps all.
        repeat_penalty: Divide the logits of recent tokens by this; 1 does nothing.
        repeat_window: How many tokens of the answer count as recent, for this and what follows.
        seed: The same seed gives the same draws; None takes a random one.
        presence_penalty: Subtract this from the logits of recent tokens.
        frequency_penalty: The same, once for each time a token came.
        dry_multiplier: How strongly to avoid ("don't repeat yourself") what would go on with a
            sequence that came before; 0 not at all.
        dry_base: How much stronger with each token that the sequence is longer.
        dry_allowed_length: Sequences up to this length may come again.
        xtc_probability: How often to leave out all of the likeliest tokens but the last that
            reaches `xtc_threshold` ("exclude top choices"); 0 never.
        xtc_threshold: A probability.
        logit_bias: What to add to the logits of tokens, by their ids.
        grammar: GBNF that the whole answer follows; None leaves it free.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_window: int = 64
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 10, "temperature", self.temperature, "0 to 10")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0, up to 1")
        _require(0 <= self.min_p < 1, "min-p", self.min_p, "0 to below 1")
        _require(0 < self.repeat_penalty <= 10, "repeat-penalty", self.repeat_penalty, "above 0")
        _require(
            0 <= self.repeat_window <= _LONGEST_WINDOW,
            "repeat-window",
            self.repeat_window,
            f"0 to {_LONGEST_WINDOW}",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-100 <= value <= 100, name.replace("_", "-"), value, "-100 to 100")
        _require(0 <= self.dry_multiplier <= 100, "dry", self.dry_multiplier, "0 to 100")
        _require(1 <= self.dry_base <= 10, "dry-base", self.dry_base, "1 to 10")
        length = self.dry_allowed_length
        _require(0 <= length <= _LONGEST_WINDOW, "dry-allowed-length", length, "0 or more")
        _require(0 <= self.xtc_probability <= 1, "xtc", self.xtc_probability, "0 to 1")
        _require(0 <= self.xtc_threshold <= 1, "xtc-threshold", self.xtc_threshold, "0 to 1")
        for _, bias in self.logit_bias:
            _require(-100 <= bias <= 100, "logit-bias", bias, "-100 to 100")
        _require(self.seed is None or 0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")


_LONGEST_WINDOW = 65536
_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
"""Where a sequence begins anew; llama.cpp's own choice."""


_LIKELY = 512
"""Tokens that a grammar is asked about before the whole vocabulary."""


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidOption(f"{name} is out of range: {value}", hint=f"Allowed: {allowed}.")


class Sampler:
    """A native sampler chain; chooses tokens and remembers them for the penalties.

    Raises:
        InvalidOption: a grammar that cannot be used, or a bias for a token that is not there.
    """

    def __init__(self, model: Model, options: SamplingOptions) -> None:
        lib = native.library()
        for token, _ in options.logit_bias:
            most = model.vocabulary_size - 1
            _require(0 <= token <= most, "logit-bias token", token, f"0 to {most}")
        self._grammar = Grammar(model, options.grammar) if options.grammar is not None else None
        self._margin = _margin(options)
        self.options = options
        self.seed = secrets.randbits(32) if options.seed is None else options.seed
        self._chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        steps = _steps(lib, model, options, self.seed)
        for step in steps:
            lib.llama_sampler_chain_add(self._chain, step)
        self._greedy = options.temperature == 0 and len(steps) == 1 and self._grammar is None
        """Whether it takes the likeliest token, whatever came before."""

    def close(self) -> None:
        """Free the chain and its steps."""
        if self._chain is not None:
            native.library().llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            self._grammar.close()

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose the token that follows output row `index`, and remember it.

        Raises:
            NativeFailure: the logits are not numbers, as the weights are damaged; or the grammar
                asks for what the model has no tokens for.
        """
        # One NaN makes the sum NaN, and is the greatest. llama.cpp would end the process on it.
        logits = context.logits(index)
        likeliest = int(logits.argmax()) if self._greedy else None
        if math.isnan(logits.sum() if likeliest is None else logits[likeliest]):
            raise NativeFailure(
                "the model computed no valid probabilities (NaN): its weights are damaged",
                hint="Fetch or convert the model again.",
            )
        if likeliest is not None:
            return likeliest
        if self._grammar is not None:
            return self._follow(self._grammar, logits)
        return int(native.library().llama_sampler_sample(self._chain, context.handle, index))

    def _follow(self, grammar: Grammar, logits: NDArray[np.float32]) -> int:
        """Choose freely; only where the grammar forbids that token, among those it allows."""
        token = self._chosen(Candidates(logits))
        if not grammar.allows(token):
            token = self._among(grammar, logits)
        grammar.accept(token)
        native.library().llama_sampler_accept(self._chain, token)
        return token

    def _among(self, grammar: Grammar, logits: NDArray[np.float32]) -> int:
        """Choose among what the grammar allows.

        To ask it about the whole vocabulary takes longer than a small model's decode. It is asked
        about the likeliest tokens first: often none of the others could be chosen.
        """
        if len(logits) > 2 * _LIKELY:
            ids = np.argpartition(logits, -_LIKELY)[-_LIKELY:].astype(np.int32)
            candidates = Candidates(logits[ids], ids)
            grammar.restrict(candidates)
            if candidates.highest() - float(logits[ids].min()) > self._margin:
                token = self._chosen(candidates)
                if grammar.spells(token):
                    return token
        candidates = Candidates(logits)
        grammar.restrict(candidates)
        allowed = candidates.logits()
        while True:
            refuse_dead_end(candidates)
            token = self._chosen(candidates)
            if grammar.spells(token):
                return token
            allowed[token] = -np.inf
            candidates.set(allowed)

    def _chosen(self, candidates: Candidates) -> int:
        native.library().llama_sampler_apply(self._chain, candidates.pointer)
        return candidates.selected


def _steps(lib: Any, model: Model, options: SamplingOptions, seed: int) -> list[Any]:
    """The chain's steps in order; steps that would change nothing are left out."""
    steps = _adjustments(lib, model, options)
    if options.temperature == 0:
        return [*steps, lib.llama_sampler_init_greedy()]
    if options.top_k:
        steps.append(lib.llama_sampler_init_top_k(options.top_k))
    if options.top_p < 1:
        steps.append(lib.llama_sampler_init_top_p(options.top_p, 1))
    if options.min_p:
        steps.append(lib.llama_sampler_init_min_p(options.min_p, 1))
    if options.xtc_probability:
        probability, threshold = options.xtc_probability, options.xtc_threshold
        steps.append(lib.llama_sampler_init_xtc(probability, threshold, 1, seed))
    steps.append(lib.llama_sampler_init_temp(options.temperature))
    steps.append(lib.llama_sampler_init_dist(seed))
    return steps


def _adjustments(lib: Any, model: Model, options: SamplingOptions) -> list[Any]:
    """The steps that change logits, before any token is left out."""
    steps: list[Any] = []
    size, window = model.vocabulary_size, options.repeat_window
    if options.logit_bias:
        biases = (lib.llama_logit_bias * len(options.logit_bias))(*options.logit_bias)
        steps.append(lib.llama_sampler_init_logit_bias(size, len(biases), biases))
    penalties = (options.repeat_penalty, options.frequency_penalty, options.presence_penalty)
    if penalties != (1, 0, 0) and window:
        steps.append(lib.llama_sampler_init_penalties(size, window, *penalties))
    if options.dry_multiplier and window:
        breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
        steps.append(
            lib.llama_sampler_init_dry(
                model.vocabulary_handle,
                options.dry_multiplier,
                options.dry_base,
                options.dry_allowed_length,
                window,
                breakers,
                len(breakers),
            )
        )
    return steps


def _margin(options: SamplingOptions) -> float:
    """How far below the highest logit a token is never chosen; infinity if that is not known."""
    steps = (options.presence_penalty, options.frequency_penalty, options.dry_multiplier)
    if any(steps) or options.repeat_penalty != 1 or options.logit_bias:
        return math.inf
    if options.temperature == 0:
        return 0.0
    return -math.log(options.min_p) if options.min_p else math.inf
