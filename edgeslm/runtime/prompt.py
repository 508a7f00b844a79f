"""Messages to token ids, so that no text from a user becomes a control token.

Chat templates mix their own control tokens (`<|im_start|>`) with text from outside. A user
who types a control token's spelling must get text, not control. So before rendering, an
invisible mark is put into every such spelling in the messages, and at both ends of each
message; the rendered text is cut at the control tokens that are left, which are the
template's own; the marks are removed and the pieces between tokenized as plain text. The
pieces join template and user text, so benign messages get exactly the usual tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from edgeslm.errors import InvalidOption, UserError
from edgeslm.llama.model import Model

if TYPE_CHECKING:
    import jinja2

ROLES = ("system", "user", "assistant", "tool")
_MARKS = range(0xF0000, 0xF1000)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is one of `ROLES`."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidOption(f"not a role: {self.role!r}", hint=f"One of {', '.join(ROLES)}.")


class PromptEncoder:
    """Encodes prompts for one model.

    Args:
        model: The model whose vocabulary and template are used.
        template: A Jinja chat template to use instead of the model's own.
    """

    def __init__(self, model: Model, template: str | None = None) -> None:
        self._model = model
        self._source = template or model.chat_template

    @property
    def has_template(self) -> bool:
        """Whether the model knows conversations at all."""
        return self._source is not None

    def require_template(self) -> None:
        """Return if conversations can be encoded.

        Raises:
            UserError: the model has no chat template, or one that is not valid Jinja.
        """
        _ = self._template

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, without a template, BOS added where the model wants it."""
        return self._model.tokenize(text, add_special=True)

    def encode_messages(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to where the assistant's next answer begins.

        Raises:
            UserError: the model has no chat template, or the template refuses the messages.
        """
        mark = _unused_mark(message.content for message in messages)
        rendered = self._render([self._marked(message, mark) for message in messages])
        return self._tokenize(rendered, mark)

    def _marked(self, message: Message, mark: str) -> dict[str, str]:
        """`message` with a mark inside each control token's spelling and at both ends.

        The end marks stand inside the surrounding white space, so that a template's `trim`
        still works, and keep a spelling from forming across the message's border.
        """
        text = message.content
        if self._control is not None:
            text = self._control.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        core = text.strip()
        if core:
            start = text.index(core)
            text = text[:start] + mark + core + mark + text[start + len(core) :]
        return {"role": message.role, "content": text}

    def _render(self, messages: list[dict[str, str]]) -> str:
        model = self._model
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                bos_token="" if model.bos is None else model.token_text(model.bos),
                eos_token="" if model.eos is None else model.token_text(model.eos),
                tools=None,
            )
        except Exception as error:  # a template is a program that came with the model
            raise UserError(
                f"the model's chat template refuses this conversation: {error}",
                hint="Some templates want user and assistant to alternate, or know no system "
                "message; --raw leaves the template out.",
            ) from error

    def _tokenize(self, rendered: str, mark: str) -> list[int]:
        tokens: list[int] = []
        start = 0
        for match in self._control.finditer(rendered) if self._control else ():
            tokens += self._plain(rendered[start : match.start()], mark)
            tokens.append(self._model.control_tokens[match[0]])
            start = match.end()
        tokens += self._plain(rendered[start:], mark)
        model = self._model
        if model.adds_bos and model.bos is not None and tokens[:1] != [model.bos]:
            tokens.insert(0, model.bos)
        return tokens

    def _plain(self, text: str, mark: str) -> list[int]:
        text = text.replace(mark, "")
        return self._model.tokenize(text) if text else []

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        """Matches the spelling of any control token, the longest first."""
        spellings = sorted(self._model.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spellings))) if spellings else None

    @cached_property
    def _template(self) -> jinja2.Template:
        if self._source is None:
            raise UserError(
                "this model has no chat template: it continues text and cannot chat",
                hint="Use edgeslm run --raw, or choose a model whose name says Instruct or Chat.",
            )
        return compile_template(self._source)


def compile_template(source: str) -> jinja2.Template:
    """A chat template, compiled in a sandbox with the functions such templates expect.

    Raises:
        UserError: it is not valid Jinja.
    """
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise UserError(
            f"the chat template is not valid Jinja: {error}", hint="Use --raw to leave it out."
        ) from error


def _to_json(value: Any, indent: int | None = None) -> str:
    """Jinja's own filter escapes HTML and non-ASCII characters; templates don't want that."""
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _unused_mark(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of `texts`."""
    used = set().union(*map(set, texts))
    return next(chr(code) for code in _MARKS if chr(code) not in used)
