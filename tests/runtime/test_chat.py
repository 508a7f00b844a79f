from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import UserError
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.chat import Conversation
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.session import Session

OPTIONS = GenerationOptions(6, (), SamplingOptions(temperature=0))


@pytest.fixture
def conversation(tiny_model: Path) -> Iterator[Conversation]:
    with (
        Model(tiny_model) as model,
        Session(model, ContextOptions(length=256, threads=1)) as session,
    ):
        yield Conversation(session, PromptEncoder(model), system="Be brief.")


def test_a_conversation_remembers_both_sides(conversation: Conversation) -> None:
    first = conversation.ask("one", OPTIONS)
    second = conversation.ask("two", OPTIONS)
    assert [(m.role, m.content) for m in conversation.messages] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", first.text),
        ("user", "two"),
        ("assistant", second.text),
    ]
    assert second.reused_tokens > 0


def test_undo_takes_back_one_exchange(conversation: Conversation) -> None:
    conversation.ask("one", OPTIONS)
    conversation.ask("two", OPTIONS)
    assert conversation.undo() == "two"
    assert [m.content for m in conversation.messages if m.role == "user"] == ["one"]
    assert conversation.undo() == "one"
    assert conversation.undo() is None


def test_the_oldest_exchanges_make_room(conversation: Conversation) -> None:
    for number in range(12):
        conversation.ask(f"message number {number}", OPTIONS)
    assert conversation.left_out > 0
    assert len(conversation.messages) == 1 + 2 * 12
    conversation.clear()
    assert conversation.left_out == 0
    assert [m.role for m in conversation.messages] == ["system"]


def test_after_making_room_the_prompts_begin_alike(conversation: Conversation) -> None:
    reused = [conversation.ask(f"message {number}", OPTIONS).reused_tokens for number in range(30)]
    # Room is made now and then; in between, the cache serves all but the newest turn.
    assert sum(count > 60 for count in reused[8:]) >= 0.6 * len(reused[8:])


def test_what_was_left_out_stays_out_and_the_system_message_in(
    conversation: Conversation, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[str]] = []
    encode = PromptEncoder.encode_messages

    def spied(
        encoder: PromptEncoder, messages: Sequence[Message], tools: Sequence[Any] = ()
    ) -> list[int]:
        if messages[-1].content.startswith("message"):
            prompts.append([message.content for message in messages])
        return encode(encoder, messages, tools)

    monkeypatch.setattr(PromptEncoder, "encode_messages", spied)
    for number in range(30):
        conversation.ask(f"message {number}", OPTIONS)
        assert prompts[-1][0] == "Be brief."
        assert prompts[-1][-1] == f"message {number}"
    assert conversation.left_out > 10


def test_a_conversation_held_before_goes_on(conversation: Conversation) -> None:
    said = [Message("system", "Be kind."), Message("user", "one"), Message("assistant", "two")]
    for number in range(12):
        conversation.ask(f"message number {number}", OPTIONS)
    conversation.restore(said)
    assert conversation.left_out == 0
    assert conversation.messages == tuple(said)
    assert conversation.system == "Be kind."
    conversation.ask("three", OPTIONS)
    assert conversation.undo() == "three"
    conversation.restore(said[1:])
    assert conversation.system is None
    assert conversation.messages == tuple(said[1:])


def test_a_long_conversation_held_before_loses_its_beginning(conversation: Conversation) -> None:
    turns = [Message("user", "so " * 10), Message("assistant", "yes " * 10)] * 40
    conversation.restore([Message("system", "Be kind."), *turns])
    answer = conversation.ask("well?", OPTIONS)
    assert answer.prompt_tokens <= conversation.context_length
    assert 0 < conversation.left_out < 41
    assert len(conversation.messages) == 1 + 82


def test_regenerating_answers_the_same_message(conversation: Conversation) -> None:
    first = conversation.ask("one", OPTIONS)
    assert conversation.regenerate(OPTIONS).tokens == first.tokens
    assert len(conversation.messages) == 3
    before = conversation.messages
    with pytest.raises(ZeroDivisionError):
        conversation.regenerate(OPTIONS, on_text=lambda _text: print(1 / 0))
    assert conversation.messages == before
    conversation.clear()
    with pytest.raises(UserError, match="nothing to answer"):
        conversation.regenerate(OPTIONS)


def test_an_answer_stopped_before_it_began_leaves_no_trace(conversation: Conversation) -> None:
    conversation.ask("one", OPTIONS, cancelled=lambda: True)
    assert [message.role for message in conversation.messages] == ["system"]


def test_a_message_too_long_for_the_context_changes_nothing(conversation: Conversation) -> None:
    conversation.ask("one", OPTIONS)
    before = conversation.messages
    with pytest.raises(UserError, match="leaves 192"):
        conversation.ask("word " * 500, OPTIONS)
    assert conversation.messages == before
