"""What a grammar allows, as llama.cpp sees it: with the byte-level tokens of a tiny model."""

from __future__ import annotations

from edgeslm.errors import NativeFailure
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.grammar import Grammar
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import FinishReason, GenerationOptions
from edgeslm.runtime.session import Session


def accepts(model: Model, source: str, text: str) -> bool:
    """Whether `text` is a whole answer under a grammar."""
    assert model.eos is not None
    with Grammar(model, source) as grammar:
        for token in model.tokenize(text):
            if not grammar.allows(token):
                return False
            grammar.accept(token)
        return grammar.allows(model.eos)


def says(session: Session, source: str, seed: int) -> str | None:
    """What a hot model without sense answers under a grammar; None if it comes to no end."""
    sampling = SamplingOptions(temperature=1.5, top_p=1, min_p=0, seed=seed, grammar=source)
    options = GenerationOptions(400, sampling=sampling)
    try:
        answer = session.generate(session.model.tokenize("hello"), options)
    except NativeFailure:
        return None
    return answer.text if answer.finish_reason is FinishReason.STOP else None


def open_session(model: Model) -> Session:
    """One that is long enough for `says`."""
    return Session(model, ContextOptions(length=512))
