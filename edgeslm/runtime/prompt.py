"""Messages to token ids, so that no text from outside becomes a control token.

Chat templates mix their own control tokens (`<|im_start|>`) with the text of messages. Who
types a control token's spelling must get text, not control. So before rendering, the messages
are disguised: every character that begins a control token is replaced by a private-use one.
Whatever the template then does with a message (trim, split, replace), no spelling can arise
from it. The control tokens found in what was rendered are therefore the template's own; the
text is cut at them, the pieces are undisguised and tokenized as plain text. A piece joins
template and message text, so benign messages get exactly the usual tokens.

What the assistant said has stand-ins of its own. Templates look for marks such as `</think>` in
it, and find them, since what they look for is disguised in the same way. In what others say they
find none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from threading import Lock
from typing import Any

from edgeslm.errors import Exhausted, UserError
from edgeslm.llama.model import Model
from edgeslm.runtime.messages import Message, plain_message, rewritten, texts
from edgeslm.runtime.slots import common
from edgeslm.runtime.templates import Template

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_PROBES = ("a", "1", "\n(", "Ж")
"""What users might say; whatever tokenizers make of it differs from the start."""
_MOST_BEGINNINGS = 16


class PromptEncoder:
    """Encodes prompts for one model.

    Args:
        model: The model whose vocabulary and template are used.
        template: A Jinja chat template to use instead of the model's own.
    """

    def __init__(self, model: Model, template: str | None = None) -> None:
        self._model = model
        self._source = template or model.chat_template
        self._beginnings: dict[str, tuple[int, ...]] = {}
        self._remembering = Lock()

    @property
    def has_template(self) -> bool:
        """Whether the model knows conversations at all."""
        return self._source is not None

    def require_template(self) -> None:
        """Return if conversations can be encoded; what the first would wait for is done then.

        Raises:
            UserError: the model has no chat template, or one that is not valid Jinja.
        """
        _ = self._template, self._steering

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, without a template, BOS added where the model wants it."""
        return self._model.tokenize(text, add_special=True)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template says how tools are described and called."""
        return self._template.uses("tools")

    def encode_messages(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant's next answer begins.

        Args:
            messages: The conversation.
            tools: What the assistant may call, described as templates expect it:
                `{"type": "function", "function": {"name", "description", "parameters"}}`.

        Raises:
            UserError: the model has no chat template, or the template refuses the messages.
        """
        self.require_template()
        plain = [plain_message(message) for message in messages]
        disguise = _Disguise(self._steering, "".join(texts([plain, list(tools)])))
        rendered = self._render(
            disguise,
            [disguise.put_on_message(message) for message in plain],
            rewritten(list(tools), disguise.put_on),
        )
        return self._tokenize(rendered, disguise)

    def beginning(
        self,
        prompt: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """With how many of its tokens other conversations begin, too.

        Those are conversations with the same system messages and tools.

        Args:
            prompt: What `encode_messages` gave for
            messages: a conversation and
            tools: what may be called in it.
        """
        system = tuple(takewhile(lambda message: message.role == "system", messages))
        key = repr((system, tools))
        known = self._beginnings.get(key)
        if known is None or common(known, prompt) < len(known):
            # never seen, or a template that says what day it is
            known = self._beginning_after(system, tools)
            with self._remembering:
                while len(self._beginnings) >= _MOST_BEGINNINGS:
                    self._beginnings.pop(next(iter(self._beginnings)))
                self._beginnings[key] = known
        return common(known, prompt)

    def _beginning_after(
        self, system: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[int, ...]:
        """What differs in none of a few conversations but for what the user says."""
        try:
            first, *others = (
                self.encode_messages([*system, Message("user", text)], tools) for text in _PROBES
            )
        except UserError:  # a template that wants something else first
            return ()
        return tuple(first[: min(common(first, other) for other in others)])

    def _render(self, disguise: _Disguise, messages: list[dict[str, Any]], tools: list[Any]) -> str:
        model = self._model
        try:
            return self._template.render(
                disguise,
                messages=messages,
                add_generation_prompt=True,
                bos_token="" if model.bos is None else model.token_text(model.bos),
                eos_token="" if model.eos is None else model.token_text(model.eos),
                tools=tools or None,
            )
        except Exhausted:
            raise
        except Exception as error:  # a template is a program that came with the model
            raise UserError(
                f"the model's chat template refuses this conversation: {error}",
                hint="Some templates want user and assistant to alternate, or know no system "
                "message; --raw leaves the template out.",
            ) from error

    def _tokenize(self, rendered: str, disguise: _Disguise) -> list[int]:
        tokens: list[int] = []
        start = 0
        for match in disguise.spellings.finditer(rendered):
            tokens += self._plain(rendered[start : match.start()], disguise)
            tokens.append(self._steering[match[0]])
            start = match.end()
        tokens += self._plain(rendered[start:], disguise)
        model = self._model
        if model.adds_bos and model.bos is not None and tokens[:1] != [model.bos]:
            tokens.insert(0, model.bos)
        return tokens

    def _plain(self, text: str, disguise: _Disguise) -> list[int]:
        parts = disguise.take_off(text, self._found_in_plain_text)
        return [token for part in parts if part for token in self._model.tokenize(part)]

    @cached_property
    def _steering(self) -> dict[str, int]:
        """Tokens that only the template may use, by spelling: control tokens, and its own others.

        Some models keep tokens such as `<tool_call>` among the user-defined ones.
        """
        return self._model.control_tokens | self._found_in_plain_text

    @cached_property
    def _found_in_plain_text(self) -> dict[str, int]:
        """Those of the template's tokens that llama.cpp finds in plain text as well."""
        source = self._source or ""
        defined = self._model.user_defined_tokens.items()
        return {text: token for text, token in defined if text.strip() and text in source}

    @cached_property
    def _template(self) -> Template:
        if self._source is None:
            raise UserError(
                "this model has no chat template: it continues text and cannot chat",
                hint="Give it one with --template, use edgeslm run --raw, or choose a model whose "
                "name says Instruct or Chat.",
            )
        return Template(self._source)


class _Disguise:
    """Characters that stand in for others in the text of one conversation.

    Args:
        steering: The spellings that must not arise from messages.
        texts: All messages; the stand-ins occur in none of them.
    """

    def __init__(self, steering: Iterable[str], texts: str) -> None:
        ordered = sorted(steering, key=len, reverse=True)
        # Without any token to look for, a pattern that never matches.
        self.spellings = re.compile("|".join(map(re.escape, ordered)) or "(?!)")
        firsts = sorted({spelling[0] for spelling in ordered})
        used = set(texts)
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        try:
            self.border, self._cut = next(free), next(free)
            self._others = {ord(first): next(free) for first in firsts}
            self._assistants = {ord(first): next(free) for first in firsts}
        except StopIteration as error:
            raise UserError(
                "the conversation uses up all private-use characters",
                hint="Leave some of them out.",
            ) from error
        stand_ins = (*self._others.items(), *self._assistants.items())
        self._originals = {ord(new): chr(old) for old, new in stand_ins}
        self._originals[ord(self.border)] = ""

    def put_on_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message as templates expect it, with everything disguised that was said."""
        others = {key: value for key, value in message.items() if key not in ("role", "content")}
        role, content = message["role"], message["content"]
        stand_ins = self._assistants if role == "assistant" else self._others
        content = self._bordered(content.translate(stand_ins))
        return {"role": role, "content": content, **rewritten(others, self.put_on)}

    def put_on(self, text: str) -> str:
        """The text, disguised, with borders that no spelling can span."""
        return self._bordered(text.translate(self._others))

    def seen_in(self, text: str, mark: str) -> str:
        """A mark of the template as it would stand in `text`, if the assistant said that."""
        changed = mark.translate(self._assistants)
        return changed if changed in text and mark not in text else mark

    def may_steer(self, text: str) -> bool:
        """Whether it holds a character with which a control token begins."""
        return text != text.translate(self._others)

    def _bordered(self, text: str) -> str:
        """Borders stand inside the white space, so that a template's `trim` still works."""
        core = text.strip()
        start = text.index(core)
        end = start + len(core)
        return text[:start] + self.border + core + self.border + text[end:] if core else text

    def take_off(self, text: str, apart: Iterable[str]) -> list[str]:
        """The original text, cut inside every spelling of `apart`, so that none is found in it."""
        text = text.translate(self._originals)
        for spelling in apart:
            # One character cannot be cut; two equal halves may overlap.
            while len(spelling) > 1 and spelling in text:
                text = text.replace(spelling, f"{spelling[0]}{self._cut}{spelling[1:]}")
        return text.split(self._cut)
