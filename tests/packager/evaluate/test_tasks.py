from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import rewrite

from edgeslm.errors import InvalidOption, NativeFailure, UserError
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model
from edgeslm.packager.evaluate import evaluate, tasks
from edgeslm.testing import tiny_gguf

GOOD = {"question": "The sky is", "choices": ["blue", "an old green hat"], "answer": 0}
ROOT = Path(__file__).parents[3]


def _write(path: Path, *entries: object) -> Path:
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    return path


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\n" + json.dumps(GOOD).encode() + b"\r\n\n")
    read = tasks.read_tasks(path)
    assert read.questions == (tasks.Question(2, "The sky is", ("blue", "an old green hat"), 0),)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([], "JSON object"),
        ({**GOOD, "question": 3}, "'question' must be"),
        ({**GOOD, "question": " "}, "'question' must be"),
        ({**GOOD, "choices": "blue"}, "'choices' must be"),
        ({**GOOD, "choices": ["blue"]}, "'choices' must be"),
        ({**GOOD, "choices": ["blue", ""]}, "'choices' must be"),
        ({**GOOD, "answer": 2}, "'answer' must be a whole number from 0 to 1"),
        ({**GOOD, "answer": -1}, "'answer' must be"),
        ({**GOOD, "answer": True}, "'answer' must be"),
        ({**GOOD, "answer": "0"}, "'answer' must be"),
        ({"question": "x", "choices": ["a", "b"]}, "no field 'answer'"),
    ],
)
def test_mistakes_name_line_and_field(tmp_path: Path, entry: object, words: str) -> None:
    path = _write(tmp_path / "t.jsonl", GOOD, GOOD, entry)
    with pytest.raises(UserError, match=f"line 3: .*{words}") as caught:
        tasks.read_tasks(path)
    assert caught.value.hint


@given(line=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_no_line_breaks_the_parser(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(line)
    with pytest.raises(UserError):
        tasks.read_tasks(path)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no questions"):
        tasks.read_tasks(_write(tmp_path / "t.jsonl"))


def _likelihood(context: Context, question: list[int], tokens: list[int]) -> float:
    """The plain way: one token after the other, from an empty cache."""
    context.forget()
    total = 0.0
    for position, token in enumerate(tokens):
        if position >= len(question):
            logits = context.logits().astype(np.float64)
            total += logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        context.step(token, position)
    return total


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_scores_are_those_of_each_choice_computed_alone(tmp_path: Path, architecture: str) -> None:
    """Also where the sliding window has moved past the question, and the cache cannot be cut."""
    path = tiny_gguf(tmp_path / "m.gguf", architecture=architecture)
    choices = ["blue", "an old green hat", "in the " * 9 + "end", "x"]
    with Model(path) as model, Context(model, ContextOptions(length=256, outputs=32)) as context:
        question = tasks.Question(
            1, "Once there was a king, and the sky over him was", tuple(choices), 0
        )
        prepared = tasks._prepare(model, tasks.TaskFile(path, "", (question,)), question)
        scorer = tasks._Scorer(model, context, 8)
        found = scorer.likelihoods(prepared)
        scorer.close()
        begin = model.tokenize(question.question)
        expected = [
            _likelihood(context, begin, model.tokenize(f"{question.question} {choice}"))
            for choice in choices
        ]
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_accuracy_counts_the_likeliest(tiny_model: Path, tmp_path: Path) -> None:
    entries = [{**GOOD, "question": f"{word} is"} for word in ("Sky", "Tea", "A hat", "Water")]
    with Model(tiny_model) as model:
        first = tasks.score(model, tasks.read_tasks(_write(tmp_path / "a.jsonl", *entries)), 1)
        turned = [{**entry, "answer": 1} for entry in entries]
        second = tasks.score(model, tasks.read_tasks(_write(tmp_path / "b.jsonl", *turned)), 1)
    # 4 bytes against 16: the short choice is likelier, whatever the model
    assert (first[0].value, second[0].value) == (1, 0)


def test_length_counts_in_bytes(tiny_model: Path, tmp_path: Path) -> None:
    """Two tokens for one byte against eight for nineteen; all tokens are about as likely."""
    entry = {"question": "Say", "choices": ["q", "the ing and the the"], "answer": 1}
    with Model(tiny_model) as model:
        file = tasks.read_tasks(_write(tmp_path / "t.jsonl", entry))
        plain, normalised = tasks.score(model, file, 1)
    assert (plain.value, normalised.value) == (0, 1)


def test_a_question_longer_than_the_context(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.jsonl", GOOD, {**GOOD, "question": "Why? " * 100})
    with (
        Model(tiny_gguf(tmp_path / "m.gguf")) as model,
        pytest.raises(InvalidOption, match=r"line 2: \d+ tokens, more than the 256"),
    ):
        tasks.score(model, tasks.read_tasks(path), 1)


def test_weights_that_are_no_numbers(tiny_model: Path, tmp_path: Path) -> None:
    path = rewrite(tiny_model, tmp_path / "m.gguf", nan="blk.0.ffn_up.weight")
    file = tasks.read_tasks(_write(tmp_path / "t.jsonl", GOOD))
    with Model(path) as model, pytest.raises(NativeFailure, match="NaN"):
        tasks.score(model, file, 1)


def test_a_file_that_can_be_read_only_once(tmp_path: Path) -> None:
    whole = tasks.read_tasks(_write(tmp_path / "t.jsonl", GOOD))
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "t.jsonl").read_bytes()
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe").write_bytes, data)
        piped = tasks.read_tasks(tmp_path / "pipe")
    assert piped.sha256 == whole.sha256 == hashlib.sha256(data).hexdigest()


def test_the_card_has_both_scores(tiny_model: Path) -> None:
    sample = ROOT / "docs" / "examples" / "questions.jsonl"
    scores = evaluate(tiny_model, tasks=sample).tasks
    assert scores is not None
    assert scores.questions == len(tasks.read_tasks(sample).questions) == 8
    assert scores.by_chance == pytest.approx(0.25)
    assert scores.reference_accuracy is None
