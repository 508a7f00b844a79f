"""Strings of every kind that tokenizers disagree about; the same ones for the same seed."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

_WORDS = (
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "I'm", "you're",
    "WE'LL", "don't", "Don’t", "naïve", "café", "Zürich", "x", "y1", "HTTPServer", "camelCase",
    "snake_case", "kebab-case", "3.14", "1e-9", "0xFF", "2026-11-22", "12:34:56", "$5.00",
    "100%", "a/b", "C++", "C#", "foo()", "bar[0]", "{baz}", "<tag>", "</tag>", "#hash", "@user",
    "http://example.org/?q=1&r=2", "...", "---", "***", "!!!", "???", ":-)", "==>", "!=", "<=",
    ">=", "&&", "||", "\\n", "\\t", '"quoted"', "'single'", "`code`",
)  # fmt: skip
_CODE = (
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    'for (int i = 0; i < n; ++i) {\n\tprintf("%d\\n", a[i]);\n}\n',
    "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x%';",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b"}}',
    '<div class="x">\r\n  <p>text</p>\r\n</div>\r\n',
    "if x:\n        y()\n\n\n    else:\n\t\tz()\n",
)
_SCRIPTS = (
    "你好，世界！今天天气很好。",
    "日本語のテキストとカタカナ、ひらがな",
    "안녕하세요 세계 여러분",
    "السلام عليكم ورحمة الله",
    "नमस्ते दुनिया, कैसे हैं आप?",
    "สวัสดีชาวโลก วันนี้อากาศดี",
    "Привет, как дела? ЁЛКА",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "Tiếng Việt có dấu",
    "ગુજરાતી ತಮಿಳು",
    "İstanbul ışık ŞİŞLİ",
    "straße ẞ ﬁ ﬂ Ǆ ǅ",
    "½ ² ³ ① Ⅷ ٣ ๓ 五",
    "ａｂｃ１２３！",
    "𝒜𝓑𝒞 𐍈 𠜎𠜱",
)
_EMOJI = ("😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "1️⃣", "🧑🏿‍🚀", "☺︎", "🤷🏼‍♀️")
_SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\u00a0",
    "\u3000",
    "\u2003",
    "\v",
    "\f",
    "\u2028",
)


def mixed_strings(count: int, controls: tuple[str, ...] = (), seed: int = 0) -> list[str]:
    """`count` strings, the empty one first; some hold the texts in `controls`."""
    chance = random.Random(seed)
    makers: list[Callable[[], str]] = [
        lambda: " ".join(chance.choices(_WORDS, k=chance.randint(1, 12))),
        lambda: chance.choice(_CODE) * chance.randint(1, 2),
        lambda: "".join(chance.choices(_SCRIPTS, k=chance.randint(1, 3))),
        lambda: "".join(chance.choices((*_EMOJI, *_WORDS, " "), k=chance.randint(1, 10))),
        lambda: _runs(chance),
        lambda: "".join(chance.choices("0123456789,. ", k=chance.randint(1, 24))),
        lambda: _composition(chance),
        lambda: "".join(_any_character(chance) for _ in range(chance.randint(1, 20))),
        lambda: _around_controls(chance, controls),
        lambda: _mixture(chance),
    ]
    return [""] + [makers[index % len(makers)]() for index in range(count - 1)]


def _runs(chance: random.Random) -> str:
    """Runs of whitespace between and around words."""
    parts = []
    for _ in range(chance.randint(1, 6)):
        parts.append(chance.choice(_SPACES) * chance.choice((1, 2, 3, 4, 5, 8, 16, 17, 40)))
        parts.append(chance.choice((*_WORDS, "")))
    return "".join(parts)


def _composition(chance: random.Random) -> str:
    form = chance.choice(("NFC", "NFD", "NFKD"))
    return unicodedata.normalize(form, " ".join(chance.choices((*_SCRIPTS, *_WORDS[:20]), k=3)))


def _any_character(chance: random.Random) -> str:
    """Any assigned or unassigned character but a surrogate."""
    while True:
        code = chance.choice(
            (
                chance.randint(1, 0x7F),
                chance.randint(0x80, 0xFFFF),
                chance.randint(0x10000, 0x10FFFF),
            )
        )
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def _around_controls(chance: random.Random, controls: tuple[str, ...]) -> str:
    pieces = [*controls, *_WORDS[:12], " ", "\n", "<s>", "</s>", "<|", "|>"]
    return "".join(chance.choices(pieces, k=chance.randint(1, 8)))


def _mixture(chance: random.Random) -> str:
    pool = (*_WORDS, *_SCRIPTS, *_EMOJI, *_SPACES)
    return "".join(chance.choices(pool, k=chance.randint(2, 12)))
