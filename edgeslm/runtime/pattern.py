"""Regular expressions of JSON schemas as grammars of what stands between the quotes.

The part of ECMAScript's expressions that is regular and says which characters come: classes,
groups, alternatives, repetitions, and anchors at the ends. What looks around or back is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NoReturn

from edgeslm.errors import InvalidOption
from edgeslm.runtime.gbnf import MOST_REPEATED, alternatives, literal, one_of, repeated

_LAST = 0x10FFFF
_DEEPEST = 50
_MOST_EMPTY = 20
"""Each of them may be left out, and llama.cpp follows all ways to do so."""
_Ranges = list[tuple[int, int]]
_DIGITS: _Ranges = [(0x30, 0x39)]
_WORD: _Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: _Ranges = [(0x20, 0x20)]
"""Other white space would have to be escaped in JSON; models have no need of it."""
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_ANY: _Ranges = [(0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, _LAST)]
"""What a string may hold, and no control characters."""
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}


def grammar_of_pattern(pattern: str) -> str:
    """What the inside of a JSON string must be to match a regular expression.

    Raises:
        InvalidOption: it is none, or uses what cannot be followed.
    """
    return _Parser(pattern).whole()


@dataclass
class _Parser:
    pattern: str
    _at: int = field(default=0, init=False)
    _copies: int = field(default=1, init=False)
    """How often llama.cpp writes out the innermost part of what was read last."""
    _empty: bool = field(default=False, init=False)
    """Whether what was read last matches nothing at all, too."""

    def whole(self) -> str:
        """Unless anchored, a match may lie anywhere in the string."""
        anything = repeated(_characters(_ANY), 0, None)
        branches = self._alternatives(0, top=True)
        if self._at < len(self.pattern):
            self._fail("a bracket too many")
        parts = []
        for begins, body, ends in branches:
            sides = ["" if begins else anything, body, "" if ends else anything]
            parts.append(" ".join(side for side in sides if side) or '""')
        return alternatives(f"({part})" for part in parts)

    def _alternatives(self, depth: int, *, top: bool) -> list[tuple[bool, str, bool]]:
        """Branches, and whether each is anchored at its begin and end."""
        if depth > _DEEPEST:
            self._fail("nested too deep")
        branches = [self._branch(depth, top=top)]
        copies, empty = self._copies, self._empty
        while self._take("|"):
            branches.append(self._branch(depth, top=top))
            copies, empty = max(copies, self._copies), empty or self._empty
        self._copies, self._empty = copies, empty
        return branches

    def _branch(self, depth: int, *, top: bool) -> tuple[bool, str, bool]:
        begins, ends, items, copies, empty = self._take("^"), False, [], 1, True
        if begins and not top:
            self._fail("^ inside a group")
        while self._at < len(self.pattern) and self.pattern[self._at] not in "|)":
            if ends:
                self._fail("$ before the end")
            if self._take("$"):
                ends = True
                if not top:
                    self._fail("$ inside a group")
                continue
            items.append(self._quantified(self._atom(depth)))
            copies, empty = max(copies, self._copies), empty and self._empty
        self._copies, self._empty = copies, empty
        return begins, " ".join(items), ends

    def _atom(self, depth: int) -> str:
        self._copies, self._empty = 1, False
        character = self._next()
        if character == "(":
            if self._take("?") and not self._take(":"):
                self._fail("a group that looks around or has a name")
            branches = self._alternatives(depth + 1, top=False)
            if not self._take(")"):
                self._fail("a bracket that is not closed")
            return alternatives(f"({body or chr(34) * 2})" for _, body, _ in branches)
        if character == "[":
            return self._some(self._class())
        if character == ".":
            return _characters(_ANY)
        if character == "\\":
            return self._some(self._escape())
        if character in "*+?{}":
            self._fail(f"nothing before {character}")
        if character == "^":
            self._fail("^ after the begin")
        return _characters([(ord(character), ord(character))])

    def _quantified(self, item: str) -> str:
        least, most = 1, None
        if self._take("*"):
            least = 0
        elif self._take("?"):
            least, most = 0, 1
        elif self._take("{"):
            least, most = self._counts()
        elif not self._take("+"):
            return item
        self._take("?")  # lazy matches the same
        self._copies *= max(least, most or 1)
        if self._empty and self._copies > _MOST_EMPTY:
            self._fail(f"a repetition of more than {_MOST_EMPTY}, of what may be nothing")
        self._empty = self._empty or least == 0
        if self._copies > MOST_REPEATED:
            self._fail(f"a repetition of more than {MOST_REPEATED}")
        return repeated(item, least, most)

    def _counts(self) -> tuple[int, int | None]:
        end = self.pattern.find("}", self._at)
        least, comma, most = self.pattern[self._at : max(end, self._at)].partition(",")
        self._at = end + 1
        digits = least.isascii() and least.isdigit() and len(least) < 6
        if end < 0 or not digits or not (most == "" or (most.isascii() and most.isdigit())):
            self._fail("a repetition without numbers")
        if not comma:
            return int(least), int(least)
        upper = int(most[:6]) if most else None
        if upper is not None and upper < int(least):
            self._fail("a repetition whose end is before its begin")
        return int(least), upper

    def _class(self) -> _Ranges:
        negated, ranges = self._take("^"), []
        while not self._take("]"):
            low = self._member()
            if self.pattern[self._at : self._at + 1] == "-" and (
                self.pattern[self._at + 1 : self._at + 2] not in ("]", "")
            ):
                self._next()
                high = self._member()
                if len(low) != 1 or len(high) != 1 or low[0][0] > high[0][1]:
                    self._fail("a range without an order")
                low = [(low[0][0], high[0][1])]
            ranges += low
        return _without(_ANY, ranges) if negated else ranges

    def _member(self) -> _Ranges:
        character = self._next()
        return self._escape() if character == "\\" else [(ord(character), ord(character))]

    def _escape(self) -> _Ranges:
        character = self._next()
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return ranges if character.islower() else _without(_ANY, ranges)
        if character in ("x", "u"):
            count = 2 if character == "x" else 4
            digits = self.pattern[self._at : self._at + count]
            self._at += count
            try:
                code = int(digits, 16) if len(digits) == count else -1
            except ValueError:
                code = -1
            if code < 0 or 0xD800 <= code < 0xE000:
                self._fail(f"\\{character} without a character's number")
            return [(code, code)]
        if character in _CONTROLS:
            return [(_CONTROLS[character], _CONTROLS[character])]
        if character.isalnum():
            self._fail(f"\\{character}")
        return [(ord(character), ord(character))]

    def _some(self, ranges: _Ranges) -> str:
        if not ranges:
            self._fail("a class of no characters")
        return _characters(ranges)

    def _next(self) -> str:
        if self._at >= len(self.pattern):
            self._fail("an end that comes too early")
        self._at += 1
        return self.pattern[self._at - 1]

    def _take(self, character: str) -> bool:
        """Step over `character`, if it is next."""
        found = self.pattern[self._at : self._at + 1] == character
        self._at += found
        return found

    def _fail(self, what: str) -> NoReturn:
        raise InvalidOption(
            f"the pattern {self.pattern[:60]!r} has {what}, which cannot be followed",
            hint="Write it with classes, groups, | and repetitions.",
        )


def _characters(ranges: _Ranges) -> str:
    """One of them, as it stands in JSON: some have to be escaped there."""
    plain = _without(
        ranges, [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x9F), (0xD800, 0xDFFF)]
    )
    escaped = [
        literal(json.dumps(chr(code))[1:-1])
        for code in (*range(0x20), 0x22, 0x5C)
        if any(low <= code <= high for low, high in ranges)
    ]
    return alternatives(([one_of(plain)] if plain else []) + escaped)


def _without(ranges: _Ranges, holes: _Ranges) -> _Ranges:
    """The ranges less the holes."""
    left = ranges
    for low, high in holes:
        left = [
            part
            for begin, end in left
            for part in ((begin, min(end, low - 1)), (max(begin, high + 1), end))
            if part[0] <= part[1]
        ]
    return list(dict.fromkeys(left))
