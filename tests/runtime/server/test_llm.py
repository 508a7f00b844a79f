"""The command `llm`, unchanged, talks to the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from processes import Served, served

_PYTHON = os.environ.get("EDGESLM_LLM_PYTHON", "")
_MODEL = os.environ.get("EDGESLM_SMOLLM2_GGUF", "")
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_MODELS = """\
- model_id: board
  model_name: helper
  api_base: {address}/v1
  supports_schema: true
  supports_tools: true
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _PYTHON, reason="EDGESLM_LLM_PYTHON names no Python with llm"),
    pytest.mark.skipif(not _MODEL, reason="EDGESLM_SMOLLM2_GGUF is not set"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    options = ("--name", "helper", "--slots", "1", "--context", "1024")
    with served(Path(_MODEL), options=options) as running:
        yield running


@pytest.fixture
def home(server: Served, tmp_path: Path) -> Path:
    (tmp_path / "extra-openai-models.yaml").write_text(_MODELS.format(address=server.address))
    return tmp_path


def _llm(home: Path, *arguments: str, said: str = "") -> str:
    """What `llm` answers; every command is shown with it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [_PYTHON, "-m", "llm", *arguments],
        env=environment,
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n$ llm {' '.join(arguments)}\n{done.stdout.strip()}", file=sys.stderr)
    return done.stdout.strip()


_BRIEF = ("-o", "temperature", "0", "-o", "max_tokens", "24")
_EXACT = ("-m", "board", *_BRIEF)


def test_a_prompt_streamed_or_not(home: Path) -> None:
    question = "What is the capital of France?"
    streamed = _llm(home, *_EXACT, question)
    assert streamed
    assert _llm(home, *_EXACT, "--no-stream", question) == streamed
    assert _llm(home, *_EXACT, "-s", "You answer in French.", question)


def test_a_conversation_goes_on(home: Path) -> None:
    _llm(home, *_EXACT, "My name is Ada. What is the capital of France?")
    assert _llm(home, "-c", *_BRIEF, "What is my name?")
    logged = json.loads(_llm(home, "logs", "--json", "-n", "0"))
    assert len({each["conversation_id"] for each in logged}) == 1
    first, second = sorted(each["input_tokens"] for each in logged)
    assert second > first + 24  # it was told what was said before


def test_a_chat(home: Path) -> None:
    said = _llm(home, "chat", *_EXACT, said="What is the capital of Italy?\nquit\n")
    assert len(said.rpartition("> ")[0].splitlines()[-1]) > 2


def test_an_answer_in_a_form(home: Path) -> None:
    answer = _llm(home, "-m", "board", "--schema", json.dumps(_SCHEMA), "Invent a dog")
    jsonschema.validate(json.loads(answer), _SCHEMA)


def test_a_tool(home: Path) -> None:
    function = (
        'def multiply(x: int, y: int) -> int:\n    "Multiply two numbers."\n    return x * y\n'
    )
    options = ("--functions", function, "--td", "--cl", "2")
    assert _llm(home, *_EXACT, *options, "What is 34234 times 213345?")
