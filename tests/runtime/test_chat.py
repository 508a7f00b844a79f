from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.errors import UserError
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.chat import Conversation
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.session import GenerationOptions, Session

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


def test_a_message_too_long_for_the_context_changes_nothing(conversation: Conversation) -> None:
    conversation.ask("one", OPTIONS)
    before = conversation.messages
    with pytest.raises(UserError, match="leaves 192"):
        conversation.ask("word " * 500, OPTIONS)
    assert conversation.messages == before
