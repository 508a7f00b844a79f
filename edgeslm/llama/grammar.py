"""Answers that follow a grammar in GBNF, llama.cpp's notation.

llama.cpp parses and follows grammars without asking whether they are reasonable: nesting takes its
stack, and a token that the grammar does not allow ends the process. Both are ruled out here.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.llama import native
from edgeslm.llama.candidates import Candidates
from edgeslm.llama.closing import Closing
from edgeslm.llama.model import Model

_MOST_BYTES, _MOST_RULES, _DEEPEST, _MOST_GROUPS = 256 * 1024, 4000, 500, 4000
_MOST_REPETITIONS, _CHARACTERS_PER_RULE = 100_000, 32
"""llama.cpp writes out what is repeated: a rule of some 250 bytes each, and 8 bytes a character."""
_MOST_SECONDS = 2.0
_LITERALS = re.compile(r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|#[^\n]*', re.DOTALL)
"""One that is not closed goes to the end, for llama.cpp too; to look for its end again and again
would take long."""
_SYMBOLS = re.compile(
    rf"(?P<text>{_LITERALS.pattern})|\{{\s*(?P<least>\d+)\s*(?:,\s*(?P<most>\d*)\s*)?\}}|[^\s]",
    re.DOTALL,
)
_PARSE_ERROR = re.compile(r"error parsing grammar: (.{1,200})")


class Grammar(Closing):
    """What may come next, as an answer grows.

    Args:
        model: Whose tokens the answer is made of.
        source: GBNF text whose rule `root` is the whole answer.

    Raises:
        InvalidOption: the text is no grammar, or one that could not be followed safely.
    """

    def __init__(self, model: Model, source: str) -> None:
        _refuse_unreasonable(source)
        lib = native.library()
        self._model = model
        self._unfinished = b""
        with native.captured_log() as lines, native.captured_stderr() as said:
            self._handle: Any = lib.llama_sampler_init_grammar(
                model.vocabulary_handle, source.encode(), b"root"
            )
        if not self._handle:
            found = _PARSE_ERROR.search(said())
            problem = found[1] if found else native.reason(lines, "llama.cpp cannot parse it")
            raise InvalidOption(
                f"the grammar cannot be used: {problem}",
                hint="It is written in llama.cpp's GBNF and needs a rule named root, without "
                "left recursion.",
            )

    def close(self) -> None:
        """Free the native grammar."""
        if self._handle is not None:
            native.library().llama_sampler_free(self._handle)
            self._handle = None

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        one = Candidates(np.zeros(1, np.float32), np.array([token], np.int32))
        self.restrict(one)
        return one.highest() > -np.inf and self.spells(token)

    def spells(self, token: int) -> bool:
        """Whether `token` goes on with valid text, or ends the answer.

        llama.cpp looks at six bits of each byte that continues a character, whatever the
        others say, and takes control tokens for the text of their names.
        """
        if self._model.ends_generation(token):
            return True
        data = self._model.token_bytes(token)
        return bool(data) and _unfinished(self._unfinished + data) is not None

    def restrict(self, candidates: Candidates) -> None:
        """Rule out candidates that may not come next; those that misspell are left."""
        with _in_time():
            native.library().llama_sampler_apply(self._handle, candidates.pointer)

    def accept(self, token: int) -> None:
        """`token`, which is allowed, comes next."""
        self._unfinished = _unfinished(self._unfinished + self._model.token_bytes(token)) or b""
        with _in_time():
            native.library().llama_sampler_accept(self._handle, token)


@contextmanager
def _in_time() -> Iterator[None]:
    """Grammars of many meanings take longer with each character: others must not wait for that.

    Raises:
        NativeFailure: it took too long.
    """
    began = time.monotonic()
    yield
    if time.monotonic() - began > _MOST_SECONDS:
        raise NativeFailure(
            "the grammar has too many ways to read the answer so far",
            hint="Write it so that what comes next can be told by few characters.",
        )


def _unfinished(data: bytes) -> bytes | None:
    """The bytes at the end that begin a character; None if no valid text begins like this."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return None
    rest = decoder.getstate()[0]
    # Python finds a surrogate only at its last byte, where nothing else can come next.
    return None if rest[:1] == b"\xed" and rest[1:] >= b"\xa0" else rest


def refuse_dead_end(candidates: Candidates) -> None:
    """Return if something may still come next.

    Raises:
        NativeFailure: nothing; the model has no token for what the grammar asks for.
    """
    if candidates.highest() == -np.inf:
        raise NativeFailure(
            "the grammar asks for text that this model has no tokens for",
            hint="Check the grammar's characters, or use another model.",
        )


def _refuse_unreasonable(source: str) -> None:
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise InvalidOption(
            f"the grammar is not valid text: {error.reason}", hint="Save it as UTF-8."
        ) from error
    bare = _LITERALS.sub("", source)
    problem, hint = None, "Give one written in llama.cpp's GBNF."
    if not source.strip():
        problem = "is empty"
    elif "\0" in source:
        problem = "holds a null character"
    elif size > _MOST_BYTES:
        problem = f"has {size} bytes; {_MOST_BYTES} is the most"
    elif source.count("::=") > _MOST_RULES:
        problem = f"has more than {_MOST_RULES} rules"
    elif source.count("(") > _MOST_GROUPS or _depth(bare) > _DEEPEST:
        problem = f"has groups nested more than {_DEEPEST} deep, or more than {_MOST_GROUPS}"
    elif (repeated := _repetitions(source)) > _MOST_REPETITIONS:
        problem = f"has repetitions that add up to {repeated}; {_MOST_REPETITIONS} is the most"
        hint = "Give smaller counts, or none; in a JSON schema they are maxLength and maxItems."
    if problem is not None:
        raise InvalidOption(f"the grammar {problem}", hint=hint)


def _repetitions(source: str) -> int:
    """What all the `{m,n}` of a grammar add up to; where long texts repeat, they count for more."""
    total, size = 0, 1
    for symbol in _SYMBOLS.finditer(source):
        text, least, most = symbol.group("text", "least", "most")
        if least is not None:
            total += _count(most or least) * size
        elif text is None or text[0] != "#":
            size = 1 + len(text or "") // _CHARACTERS_PER_RULE
    return total


def _count(digits: str) -> int:
    """A number, or one that is as good as it: too large."""
    return int(digits.lstrip("0")[:9] or "0")


def _depth(bare: str) -> int:
    depth = deepest = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest
