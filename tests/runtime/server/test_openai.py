"""OpenAI's own client talks to it and notices no difference."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from jsonschema import validate
from processes import Served

from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.session import Session

HELLO = [{"role": "user", "content": "hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 8},
                "unit": {"enum": ["celsius", "kelvin"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def sdk(server: Served) -> Iterator[openai.OpenAI]:
    address = f"{server.address}/v1"
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    with Model(tiny_model) as opened:
        yield opened


def _expected(model: Model, prompt: list[int], tokens: int) -> str:
    options = GenerationOptions(tokens, (), SamplingOptions(temperature=0))
    with Session(model, ContextOptions(length=1024)) as session:
        return session.generate(prompt, options).text


def test_a_conversation(sdk: openai.OpenAI, model: Model) -> None:
    answer = sdk.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],  # type: ignore[list-item]
        temperature=0,
        max_tokens=12,
    )
    messages = [Message("system", "Be brief."), Message("user", "hello there")]
    prompt = PromptEncoder(model).encode_messages(messages)
    assert answer.choices[0].message.content == _expected(model, prompt, 12)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.total_tokens == len(prompt) + answer.usage.completion_tokens


def test_a_stream_is_the_same_answer(sdk: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 12}
    whole = sdk.chat.completions.create(**asked)  # type: ignore[call-overload]
    stream = sdk.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )  # type: ignore[call-overload]
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == whole.choices[0].message.content
    reasons = [each.choices[0].finish_reason for each in chunks if each.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({each.id for each in chunks}) == 1


def test_several_choices_differ_and_repeat(sdk: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = sdk.chat.completions.create(
            model="tiny",
            messages=HELLO,  # type: ignore[arg-type]
            n=3,
            seed=5,
            temperature=2,
            max_tokens=8,
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 3
    assert ask() == first


def test_how_likely_tokens_were(sdk: openai.OpenAI) -> None:
    asked = {
        "model": "tiny",
        "messages": HELLO,
        "temperature": 0,
        "max_tokens": 6,
        "logprobs": True,
    }
    answer = sdk.chat.completions.create(**asked, top_logprobs=4)  # type: ignore[call-overload]
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert b"".join(map(bytes, (each.bytes for each in content))).decode("utf-8", "replace") == (
        answer.choices[0].message.content
    )
    for each in content:
        assert each.logprob == each.top_logprobs[0].logprob  # the likeliest, at temperature 0
        assert len(each.top_logprobs) == 4
        assert sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1
    stream = sdk.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
    streamed = [
        each.logprob
        for chunk in stream
        if chunk.choices and chunk.choices[0].logprobs
        for each in chunk.choices[0].logprobs.content
    ]
    assert streamed == pytest.approx([each.logprob for each in content], abs=1e-3)


def test_stop_strings(sdk: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 12}
    text = sdk.chat.completions.create(**asked).choices[0].message.content  # type: ignore[call-overload]
    stop = text[2:4]
    answer = sdk.chat.completions.create(**asked, stop=[stop])  # type: ignore[call-overload]
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_json_schema(sdk: openai.OpenAI) -> None:
    schema = WEATHER["function"]["parameters"]  # type: ignore[index]
    answer = sdk.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": schema}},
        temperature=1.5,
        seed=3,
        max_tokens=200,
    )
    validate(json.loads(answer.choices[0].message.content or ""), schema)
    answer = sdk.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        response_format={"type": "json_object"},
        max_tokens=100,
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_tool_that_must_be_called(sdk: openai.OpenAI, choice: object) -> None:
    asked = {
        "model": "tiny",
        "messages": HELLO,
        "tools": [WEATHER],
        "tool_choice": choice,
        "temperature": 1.5,
        "seed": 7,
        "max_tokens": 200,
    }
    answer = sdk.chat.completions.create(**asked)  # type: ignore[call-overload]
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])  # type: ignore[index]
    stream = list(sdk.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
    (streamed,) = [each for chunk in stream for each in chunk.choices[0].delta.tool_calls or ()]
    assert streamed.function.arguments == call.function.arguments
    assert stream[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in stream)
    followed = [
        *HELLO,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"},
    ]
    again = sdk.chat.completions.create(
        model="tiny", messages=followed, tools=[WEATHER], max_tokens=4
    )  # type: ignore[call-overload]
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens


def test_text_is_continued(sdk: openai.OpenAI, model: Model) -> None:
    asked = {"model": "tiny", "temperature": 0, "max_tokens": 9}
    answer = sdk.completions.create(prompt=["once", "why not"], **asked)  # type: ignore[call-overload]
    texts = [choice.text for choice in answer.choices]
    prompts = [model.tokenize(text, add_special=True) for text in ("once", "why not")]
    assert texts == [_expected(model, prompt, 9) for prompt in prompts]
    ids = sdk.completions.create(prompt=prompts, **asked)  # type: ignore[call-overload]
    assert [choice.text for choice in ids.choices] == texts
    one = sdk.completions.create(prompt=prompts[1], **asked, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in one) == texts[1]


@pytest.mark.parametrize("as_text", [True, False])
def test_an_echo_with_scores(sdk: openai.OpenAI, model: Model, as_text: bool) -> None:
    prompt = "there was once ☃ a"
    tokens = model.tokenize(prompt, add_special=True)
    answer = sdk.completions.create(
        model="tiny",
        prompt=prompt if as_text else tokens,
        echo=True,
        logprobs=2,
        max_tokens=3,
        temperature=0,
    )
    choice = answer.choices[0]
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens
    assert scores.token_logprobs
    assert scores.text_offset
    assert scores.top_logprobs
    assert choice.text.startswith(prompt)
    begins = model.adds_bos
    known = len(tokens) - begins if as_text else len(tokens)
    assert len(scores.tokens) == known + 3 == len(scores.token_logprobs)
    # the first token has no score, unless a token that begins every text comes before it
    assert (scores.token_logprobs[0] is None) == (not (begins and as_text))
    assert all(each is not None and each < 0 for each in scores.token_logprobs[1:])
    for offset, token in zip(scores.text_offset, scores.tokens, strict=True):
        if "\ufffd" not in token:
            assert choice.text[offset : offset + len(token)] == token


def test_the_prompt_alone(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model="tiny", prompt="hello you", echo=True, max_tokens=0)
    assert answer.choices[0].text == "hello you"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_vectors(sdk: openai.OpenAI, model: Model) -> None:
    texts = ["hello there", "the and in " * 12]
    answer = sdk.embeddings.create(model="tiny", input=texts, encoding_format="float")
    assert [each.index for each in answer.data] == [0, 1]
    for each in answer.data:
        assert len(each.embedding) == model.hidden_size
        assert math.fsum(value**2 for value in each.embedding) == pytest.approx(1, abs=1e-5)
    assert answer.data[0].embedding != pytest.approx(answer.data[1].embedding, abs=0.01)
    ids = sdk.embeddings.create(model="tiny", input=model.tokenize(texts[0], add_special=True))
    assert ids.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)
    raw = sdk.embeddings.with_raw_response.create(
        model="tiny", input=texts[0], encoding_format="base64"
    )
    packed = base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])
    values = struct.unpack(f"<{model.hidden_size}f", packed)
    assert list(values) == pytest.approx(answer.data[0].embedding, abs=1e-6)


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny"]
    assert sdk.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="There is: tiny"):
        sdk.models.retrieve("huge")


def test_what_is_wrong_is_said(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="There is: tiny"):
        sdk.chat.completions.create(model="gpt", messages=HELLO)  # type: ignore[arg-type]
    long = [{"role": "user", "content": "hello " * 5000}]
    with pytest.raises(openai.BadRequestError, match="the context holds 1024") as caught:
        sdk.chat.completions.create(model="tiny", messages=long)  # type: ignore[arg-type]
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        sdk.chat.completions.create(model="tiny", messages=HELLO, temperature=-1)  # type: ignore[arg-type]
