"""Bytes to text as they arrive: whole characters only, and stop strings that never show."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of successive tokens into text that may be shown at once.

    A character that spans tokens waits for its last byte; text that may turn out to be the
    start of a stop string waits until it is not. Invalid UTF-8 becomes U+FFFD.

    Args:
        stops: Strings that end the answer and are not part of it; empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """The text that became certain with `data`; nothing after a stop string."""
        return self._take(self._decoder.decode(data))

    def finish(self) -> str:
        """The text still held back when the answer ends."""
        text = self._take(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _take(self, text: str) -> str:
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        ends = [self._held.find(stop) for stop in self._stops]
        found = [end for end in ends if end >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        certain = len(self._held) - self._uncertain()
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _uncertain(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
