"""Markdown for terminals, styled while it streams.

Each character is decided on as it arrives; only one that may begin a mark waits, and no longer
than until the mark is certain. Nothing is ever taken back or printed again: apart from text there
are only SGR codes, which colour what follows, so it works on every terminal that knows them.

Where Markdown would need to know how a line ends, it is decided by how the mark stands: `2*3`,
`*.py` and `__init__` stay as they are. Styles end with their line.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeslm.cli.output import terminal_text

DIM = "2"
_HEADING, _TITLE, _LIST, _CODE = "1", "1;4", "1", "36"
_BOLD, _ITALIC = "1", "3"

_BLANK = frozenset(" \t")
_END = frozenset(("\n", ""))
"""The end of a line, and of the answer."""
_OPENING = frozenset("([{<\"'“‘«„¿¡-–—")
_BEFORE_ITALIC = frozenset("([\"'`$_“‘«")
_ESCAPED = frozenset("*_`#")
_MOST_HELD = 64
"""Characters that wait at most; a mark that is longer is none."""


class Markdown:
    """Turns pieces of an answer into text for a terminal.

    However the answer is cut into pieces, what is printed is the same. Whatever could steer a
    terminal becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._out: list[str] = []
        self._shown = ""
        """The style that the terminal is in."""
        self._state: Callable[[str], None] = self._block
        self._held = ""
        self._before = ""
        """The character before, "" at the beginning of a line."""
        self._heading = ""
        self._quote = self._bold = False
        self._italic = ""
        """The mark that began it."""
        self._ticks = 0
        """Backticks that end the inline code."""
        self._fence = ""
        """What began a block of code."""
        self._fence_quoted = False

    def feed(self, text: str) -> str:
        """What to print for the next piece of the answer."""
        for character in terminal_text(text):
            self._state(character)
        return self._printed()

    def finish(self) -> str:
        """What was held back, and the end of all styles: the answer is over."""
        self._state("")
        self._switch("")
        return self._printed()

    def _printed(self) -> str:
        printed = "".join(self._out)
        self._out.clear()
        return printed

    def _put(self, text: str, style: str | None = None) -> None:
        """Print in `style`, or in that of the line."""
        if text:
            self._switch(self._style() if style is None else style)
            self._out.append(text)
            self._before = text[-1]

    def _switch(self, style: str) -> None:
        if style != self._shown:
            codes = ["0"] if self._shown or not style else []
            self._out.append(f"\x1b[{';'.join([*codes, *filter(None, [style])])}m")
            self._shown = style

    def _style(self) -> str:
        styles = [
            self._heading or (_BOLD if self._bold else ""),
            _ITALIC if self._italic or self._quote else "",
        ]
        return ";".join(filter(None, styles))

    def _release(self, state: Callable[[str], None], style: str | None = None) -> None:
        """What was held is no mark: print it, and go on with `state`."""
        held, self._held = self._held, ""
        self._put(held, style)
        self._state = state

    def _replay(self, state: Callable[[str], None], text: str) -> None:
        """What was held is something else: go through it again, beginning with `state`."""
        self._held = ""
        self._state = state
        for character in text:
            self._state(character)

    def _hold(self, character: str, state: Callable[[str], None]) -> None:
        self._held = character
        self._state = state

    def _end_line(self, end: str) -> None:
        self._put(end, "")
        self._before = self._heading = self._italic = ""
        self._quote = self._bold = False
        self._ticks = 0
        self._state = self._fence_line if self._fence else self._block

    # Where a line, a list item or a quote begins.

    def _block(self, character: str) -> None:
        if character in _BLANK:
            self._put(character)
        elif character == ">":
            self._put(character, DIM)
            self._quote = True
        elif character == "|":  # a table: its columns stay as they are
            self._put(character)
            self._state = self._literal
        elif (state := self._begun_by(character)) is not None:
            self._hold(character, state)
        else:
            self._state = self._inline
            self._inline(character)

    def _begun_by(self, character: str) -> Callable[[str], None] | None:
        if character.isascii() and character.isdigit():
            return self._number
        return {
            "#": self._hashes,
            "`": self._fence_run,
            "~": self._fence_run,
            "-": self._bullet,
            "+": self._bullet,
            "*": self._bullet,
        }.get(character)

    def _hashes(self, character: str) -> None:
        if character == "#" and len(self._held) < 6:
            self._held += character
        elif character == " ":
            self._heading = _TITLE if self._held == "#" else _HEADING
            self._hold("", self._inline)
        else:
            self._release(self._inline)
            self._inline(character)

    def _bullet(self, character: str) -> None:
        if character in _BLANK:
            self._release(self._block, _LIST)
            self._put(character)
        else:
            self._replay(self._inline, self._held)
            self._state(character)

    def _number(self, character: str) -> None:
        if character in _BLANK and self._held[-1] in ".)":
            self._release(self._block, _LIST)
            self._put(character)
        elif self._held.isdigit() and len(self._held) < 10 and _numbers(character):
            self._held += character
        else:
            self._release(self._inline)
            self._inline(character)

    def _literal(self, character: str) -> None:
        if character in _END:
            self._end_line(character)
        else:
            self._put(character)

    # Blocks of code.

    def _fence_run(self, character: str) -> None:
        if character == self._held[0] and len(self._held) < _MOST_HELD:
            self._held += character
        elif character == self._held[0]:
            self._release(self._literal)
            self._literal(character)
        elif len(self._held) >= 3:
            self._fence = self._held
            self._state = self._fence_info
            self._fence_info(character)
        elif self._held[0] == "`":
            self._state = self._open_code
            self._open_code(character)
        else:
            self._release(self._inline)
            self._inline(character)

    def _fence_info(self, character: str) -> None:
        if character in _END:
            self._fence_quoted = self._quote
            self._release(self._fence_line, DIM)
            self._end_line(character)
        elif (character == "`" == self._fence[0]) or len(self._held) >= 2 * _MOST_HELD:
            self._not_a_fence()
            self._state(character)
        else:
            self._held += character

    def _not_a_fence(self) -> None:
        fence, rest = self._fence, self._held[len(self._fence) :]
        self._fence = ""
        if fence[0] == "`":
            self._ticks = len(fence)
            self._replay(self._code, rest)
        else:
            self._put(fence)
            self._replay(self._inline, rest)

    def _fence_line(self, character: str) -> None:
        if character == self._fence[0]:
            self._hold(character, self._fence_end)
        elif character == ">" and self._fence_quoted:
            self._put(character, DIM)
        elif character in _BLANK:
            self._put(character, _CODE)
        else:
            self._state = self._fence_text
            self._fence_text(character)

    def _fence_text(self, character: str) -> None:
        if character in _END:
            self._end_line(character)
        else:
            self._put(character, _CODE)

    def _fence_end(self, character: str) -> None:
        run = self._held.rstrip(" \t")
        enough = len(run) >= len(self._fence)
        if character in _END and enough:
            self._fence = ""
            self._release(self._block, DIM)
            self._end_line(character)
        elif len(self._held) < 2 * _MOST_HELD and (
            (character == self._fence[0] and run == self._held) or (character in _BLANK and enough)
        ):
            self._held += character
        else:
            self._release(self._fence_text, _CODE)
            self._fence_text(character)

    # Within a line.

    def _inline(self, character: str) -> None:
        if character in _END:
            self._end_line(character)
        elif character == "`":
            self._hold(character, self._open_code)
        elif character in ("*", "_"):
            self._hold(character, self._run)
        elif character == "\\":
            self._hold(character, self._escape)
        else:
            self._put(character)

    def _escape(self, character: str) -> None:
        if character in _ESCAPED:
            self._held = character
            self._release(self._inline)
        else:
            self._release(self._inline)
            self._inline(character)

    def _open_code(self, character: str) -> None:
        if character == "`" and len(self._held) < _MOST_HELD:
            self._held += character
        elif character in _END or character == "`":
            self._release(self._literal)
            self._literal(character)
        else:
            self._ticks = len(self._held)
            self._hold("", self._code)
            self._code(character)

    def _code(self, character: str) -> None:
        if character in _END:
            self._end_line(character)
        elif character == "`":
            self._hold(character, self._close_code)
        else:
            self._put(character, _CODE)

    def _close_code(self, character: str) -> None:
        if character == "`" and len(self._held) < _MOST_HELD:
            self._held += character
        elif len(self._held) == self._ticks and character != "`":
            self._before = "`"
            self._hold("", self._inline)
            self._inline(character)
        else:
            self._release(self._code, _CODE)
            self._code(character)

    def _run(self, character: str) -> None:
        """Asterisks or underscores: a mark by what stands on both sides."""
        if character == self._held[0] and len(self._held) < _MOST_HELD:
            self._held += character
            return
        mark, count = self._held[0], len(self._held)
        self._held = ""
        if count <= (3 if mark == "*" else 1):
            count = self._closed(mark, count, character)
            count = self._opened(mark, count, character)
        self._put(mark * count)
        self._before = mark
        self._state = self._inline
        self._inline(character)

    def _closed(self, mark: str, count: int, after: str) -> int:
        """End what such a mark can end here; how many of its characters are left."""
        if not self._before or self._before.isspace() or self._before in _OPENING:
            return count
        if mark == "_" and after.isalnum():
            return count
        if count >= 2 and self._bold:
            self._bold = False
            count -= 2
        if count and self._italic == mark:
            self._italic = ""
            count -= 1
        return count

    def _opened(self, mark: str, count: int, after: str) -> int:
        """Begin what such a mark can begin here; how many of its characters are left."""
        if not count or not _may_begin(mark, count, self._before, after):
            return count
        bold, italic = count >= 2, count != 2
        if (bold and self._bold) or (italic and self._italic):
            return count
        self._bold = self._bold or bold
        self._italic = mark if italic else self._italic
        return 0


def _numbers(character: str) -> bool:
    return character.isascii() and (character.isdigit() or character in (".", ")"))


def _may_begin(mark: str, count: int, before: str, after: str) -> bool:
    if not after or after.isspace():
        return False
    if mark == "_" or (before.isascii() and before.isalnum()):
        stands_alone = not before or before.isspace() or before in _OPENING or before == "*"
        return mark == "_" and stands_alone and after.isalnum()
    if before in (")", "]", "/", "\\"):
        return False
    if count == 1:
        return after.isalnum() or after in _BEFORE_ITALIC or not after.isascii()
    return after not in ("/", "*")
