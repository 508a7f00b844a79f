"""A prompt's beginning survives the process, and answers are those of a cold start."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from edgeslm.llama.adapter import Adapter
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.engine import Engine
from edgeslm.runtime.generation import Generation, GenerationOptions
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.prompt_states import PromptStates
from edgeslm.runtime.session import Session
from edgeslm.testing import tiny_adapter, tiny_gguf

SYSTEM = Message("system", "You are a careful helper who answers in rhymes and never lies. " * 3)
OPTIONS = ContextOptions(length=512, threads=1, batch=128, ubatch=128)


def _asked(
    model: Model, text: str, adapter: Adapter | None = None
) -> tuple[list[int], GenerationOptions]:
    messages = [SYSTEM, Message("user", text)]
    encoder = PromptEncoder(model)
    tokens = encoder.encode_messages(messages)
    keep = encoder.beginning(tokens, messages)
    assert 48 <= keep < len(tokens)
    greedy = SamplingOptions(temperature=0)
    return tokens, GenerationOptions(8, sampling=greedy, scores=5, keep=keep, adapter=adapter)


def _answer(
    model: Model,
    folder: Path,
    text: str,
    options: ContextOptions = OPTIONS,
    adapter: Adapter | None = None,
) -> tuple[Generation, np.ndarray]:
    """What a process that starts now answers, and its logits."""
    with PromptStates(folder) as states, Session(model, options, states) as session:
        answer = session.generate(*_asked(model, text, adapter))
        return answer, session.context.logits().copy()


def test_a_restart_gives_the_same_logits_without_computing_again(
    model: Model, tmp_path: Path
) -> None:
    cold, cold_logits = _answer(model, tmp_path, "Who are you?")
    warm, warm_logits = _answer(model, tmp_path, "Who are you?")
    assert cold.reused_tokens == 0
    assert warm.reused_tokens == _asked(model, "x")[1].keep
    assert warm.tokens == cold.tokens
    np.testing.assert_array_equal(warm_logits, cold_logits)


def test_another_question_begins_the_same(model: Model, tmp_path: Path) -> None:
    _answer(model, tmp_path, "Who are you?")
    cold, cold_logits = _answer(model, tmp_path / "elsewhere", "And who am I?")
    warm, warm_logits = _answer(model, tmp_path, "And who am I?")
    assert (cold.reused_tokens, warm.reused_tokens) == (0, _asked(model, "x")[1].keep)
    np.testing.assert_array_equal(warm_logits, cold_logits)


def test_another_cache_type_computes_for_itself(model: Model, tmp_path: Path) -> None:
    _answer(model, tmp_path, "Who are you?")
    other = ContextOptions(length=512, threads=1, kv_type="F32")
    assert _answer(model, tmp_path, "Who are you?", other)[0].reused_tokens == 0


def test_a_changed_model_file_computes_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    for seed, reused in ((0, False), (0, True), (1, False)):
        with Model(tiny_gguf(path, seed=seed, context_length=512)) as model:
            answer, _ = _answer(model, tmp_path / "states", "Who are you?")
            assert bool(answer.reused_tokens) == reused


def test_an_adapter_computes_for_itself(tmp_path: Path, tiny_model: Path) -> None:
    with Model(tiny_model) as model:
        file = tiny_adapter(tmp_path / "adapter.gguf", tiny_model)
        with Adapter(model, file) as adapter, Adapter(model, file, 0.5) as weaker:
            for used, reused in ((None, False), (adapter, False), (adapter, True), (weaker, False)):
                answer, _ = _answer(model, tmp_path / "states", "Who are you?", adapter=used)
                assert bool(answer.reused_tokens) == reused


def test_a_damaged_state_is_computed_again(model: Model, tmp_path: Path) -> None:
    _, cold = _answer(model, tmp_path, "Who are you?")
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    again, logits = _answer(model, tmp_path, "Who are you?")
    assert again.reused_tokens == 0
    np.testing.assert_array_equal(logits, cold)


def test_a_state_in_right_form_that_llama_cpp_refuses_is_computed_again(
    model: Model, tmp_path: Path
) -> None:
    from edgeslm.runtime.beginnings import hash_of, origin_of

    tokens, options = _asked(model, "Who are you?")
    with Session(model, OPTIONS) as session, PromptStates(tmp_path) as states:
        origin = origin_of(session.context, hash_of(model) or "")

        def fill(target: memoryview) -> None:
            target[:] = b"\xff" * len(target)

        assert states.keep(origin, tokens[: options.keep], 5000, fill)
    assert _answer(model, tmp_path, "Who are you?")[0].reused_tokens == 0


def test_an_engine_has_it_from_the_start_in_every_slot(model: Model, tmp_path: Path) -> None:
    cold, _ = _answer(model, tmp_path, "Who are you?")
    options = ContextOptions(length=1024, threads=1, sequences=2, outputs=2)
    turn = threading.Lock()
    with (
        PromptStates(tmp_path) as states,
        Engine(model, options, states=states, turn=turn) as engine,
    ):
        with turn:  # neither is answered before both are there
            tickets = [engine.submit(*_asked(model, "Who are you?")) for _ in range(2)]
        answers = [ticket.result(60) for ticket in tickets]
        # the second has it from the first, unless a window has moved on by then
        assert states.restored == 1 or (model.sliding_window and states.restored == 2)
    for answer in answers:
        assert answer.tokens[:2] == cold.tokens[:2]
        assert answer.reused_tokens > 0


def test_what_is_not_the_same_for_others_is_not_kept(model: Model, tmp_path: Path) -> None:
    messages = [Message("user", "a very long message of one user alone " * 5)]
    encoder = PromptEncoder(model)
    tokens = encoder.encode_messages(messages)
    keep = encoder.beginning(tokens, messages)
    with PromptStates(tmp_path) as states, Session(model, OPTIONS, states) as session:
        session.generate(tokens, GenerationOptions(2, keep=keep))
    assert list(tmp_path.iterdir()) == []


def test_a_file_put_in_the_place_of_the_loaded_one_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", context_length=512)
    with Model(path) as model:
        tiny_gguf(tmp_path / "new.gguf", seed=1, context_length=512).replace(path)
        _answer(model, tmp_path / "states", "Who are you?")
    assert not (tmp_path / "states").exists()
    with Model(path) as model:
        assert _answer(model, tmp_path / "states", "Who are you?")[0].reused_tokens == 0


def test_where_nothing_is_kept_no_file_is_hashed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_path: Path) -> str:
        raise AssertionError

    monkeypatch.setattr("edgeslm.runtime.beginnings.remembered_sha256", never)
    with PromptStates(None) as states, Session(model, OPTIONS, states) as session:
        assert session.generate(*_asked(model, "Who are you?")).tokens


def test_positions_that_are_turned_otherwise_are_another_origin(tiny_model: Path) -> None:
    from types import SimpleNamespace
    from typing import Any

    from edgeslm.runtime.beginnings import origin_of

    def origin(length: int, sequences: int = 1) -> Any:
        options = ContextOptions(length=length, sequences=sequences)
        known = {"rope.scaling.original_context_length": 4096}
        context: Any = SimpleNamespace(
            sequence_length=length // sequences,
            options=options,
            model=SimpleNamespace(hyper=known.get),
        )
        return origin_of(context, "hash")

    assert origin(2048) == origin(4096) == origin(8192, 4)
    assert origin(2048) != origin(8192) == origin(32768, 4)
