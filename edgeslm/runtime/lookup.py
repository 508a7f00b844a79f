"""Drafts without a model: what followed the last time that the text went like this.

A text that quotes, corrects or fills in a form repeats parts of its prompt. The index knows where
each run of a few tokens came last; a token is added in constant time, however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST = 2
LONGEST = 4
REMEMBERED = 32768
_REACH = 16
"""Tokens before a match that are compared, to say how long it is."""


class PromptLookup:
    """An index of a text that grows.

    Args:
        text: Token ids to begin with.
        shortest: Tokens at the end of the text that must have come before.
        longest: Most tokens by which a place is sought.
        remembered: Most tokens to keep; the older half is forgotten when there are more. With the
            standard lengths the index takes about 400 bytes a token.
    """

    def __init__(
        self,
        text: Sequence[int],
        *,
        shortest: int = SHORTEST,
        longest: int = LONGEST,
        remembered: int = REMEMBERED,
    ) -> None:
        self._lengths = range(shortest, longest + 1)
        self._remembered = max(remembered, 2 * longest)
        self._text: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self._index(text[-self._remembered :])

    def __len__(self) -> int:
        return len(self._text)

    def append(self, token: int) -> None:
        """The text goes on with `token`."""
        if len(self._text) >= self._remembered:
            kept = self._text[len(self._text) // 2 :]
            self._text, self._places = [], {}
            self._index(kept)
        self._index((token,))

    def match(self) -> tuple[int, int]:
        """Where the end of the text came last.

        Returns:
            The place after it, and how many tokens before that place are those at the end, up to
            16; by the longest run that the index knows, and there the latest place. (0, 0) if
            there is none.
        """
        text = self._text
        for length in reversed(self._lengths):
            place = self._places.get(tuple(text[-length:]))
            if place is not None and length <= place:
                while length < min(place, _REACH) and text[place - length - 1] == text[-length - 1]:
                    length += 1
                return place, length
        return 0, 0

    def after(self, place: int, count: int) -> tuple[int, ...]:
        """The `count` tokens from `place` on; what runs into the end of the text repeats itself."""
        part = self._text[place : place + count]
        period = len(self._text) - place
        return tuple(part[index % period] for index in range(count))

    def _index(self, tokens: Sequence[int]) -> None:
        """Append tokens, with the runs that end before each of them."""
        text, places = self._text, self._places
        for token in tokens:
            end = len(text)
            for length in self._lengths:
                if length <= end:
                    places[tuple(text[end - length :])] = end
            text.append(token)
