"""Two specialists on one base, asked at once: each request gets its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from processes import OPTIONS, Served, served

from edgeslm.llama.adapter import Adapter
from edgeslm.llama.context import ContextOptions
from edgeslm.llama.model import Model
from edgeslm.llama.sampler import SamplingOptions
from edgeslm.runtime.generation import GenerationOptions
from edgeslm.runtime.messages import Message
from edgeslm.runtime.prompt import PromptEncoder
from edgeslm.runtime.session import Session
from edgeslm.testing import tiny_adapter

NAMES = ("tiny", "poet", "clerk")
QUESTIONS = ("hello", "who are you?", "what is the time?", "and now?")


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: tiny_adapter(folder / f"{name}.gguf", tiny_model, seed=seed)
        for seed, name in enumerate(NAMES[1:])
    }


@pytest.fixture(scope="module")
def server(tiny_model: Path, adapters: dict[str, Path]) -> Iterator[Served]:
    given = [f"--adapter={name}={path}" for name, path in adapters.items()]
    with served(tiny_model, options=(*OPTIONS, "--queue", "50", *given)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(tiny_model: Path, adapters: dict[str, Path]) -> dict[tuple[str, str], str]:
    """What each answers alone, without a server."""
    answers = {}
    with Model(tiny_model) as model:
        opened = {name: Adapter(model, path) for name, path in adapters.items()}
        encoder = PromptEncoder(model)
        for name in NAMES:
            with Session(model, ContextOptions(length=1024, threads=1)) as session:
                for question in QUESTIONS:
                    options = GenerationOptions(
                        6, sampling=SamplingOptions(temperature=0), adapter=opened.get(name)
                    )
                    prompt = encoder.encode_messages([Message("user", question)])
                    answers[name, question] = session.generate(prompt, options).text
        for adapter in opened.values():
            adapter.close()
    return answers


def _ask(client: httpx.Client, name: str, question: str) -> str:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 6,
        "temperature": 0,
    }
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert answer["model"] == name
    return str(answer["choices"][0]["message"]["content"])


def test_they_are_models_of_their_names(server: Served) -> None:
    with server.client() as client:
        listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert tuple(listed) == NAMES
        assert client.get("/v1/models/poet").status_code == 200
        refused = client.post("/v1/embeddings", json={"model": "poet", "input": "x"})
        assert refused.status_code == 400


def test_each_request_gets_its_own(server: Served, expected: dict[tuple[str, str], str]) -> None:
    wanted = [(name, question) for _ in range(3) for name in NAMES for question in QUESTIONS]
    with server.client() as client, ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda asked: _ask(client, *asked), wanted))
    assert answers == [expected[asked] for asked in wanted]
    assert len(set(expected.values())) > len(QUESTIONS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("poet", "NAME=FILE"),
        ("=x.gguf", "NAME=FILE"),
        ("poet=", "NAME=FILE"),
        ("poet=nowhere.gguf", "no such file"),
        ("tiny=nowhere.gguf", "must differ"),
    ],
)
def test_what_is_no_adapter_is_refused(tiny_model: Path, given: str, said: str) -> None:
    with (
        pytest.raises(AssertionError, match=said),
        served(tiny_model, options=("--name", "tiny", f"--adapter={given}")),
    ):
        pass


@pytest.mark.slow
def test_a_second_one_costs_its_file(tmp_path: Path) -> None:
    """And less than 5 MB more, on a model of ordinary size."""
    path = os.environ.get("EDGESLM_SMOLLM2_GGUF")
    if not path:
        pytest.skip("EDGESLM_SMOLLM2_GGUF does not name SmolLM2")
    every = ("attn_q.weight", "attn_v.weight", "ffn_up.weight", "ffn_down.weight")
    files = [
        tiny_adapter(tmp_path / f"{name}.gguf", Path(path), tensors=every, rank=32, seed=seed)
        for seed, name in enumerate(NAMES[1:])
    ]
    taken = []
    for count in (1, 2):
        given = [f"--adapter={file.stem}={file}" for file in files[:count]]
        common = ("--name", "tiny", "--context", "512", "--slots", "4", "--prompt-cache", "0")
        with served(Path(path), options=(*common, *given)) as running, running.client() as client:
            for name in (*NAMES[:2], NAMES[count]) * 8:  # as much is said in both cases
                _ask(client, name, QUESTIONS[0])
            taken.append(running.resident_bytes())
    size = files[1].stat().st_size
    print(f"\nfile {size / 1e6:.1f} MB, second specialist {(taken[1] - taken[0]) / 1e6:.1f} MB")
    assert taken[1] - taken[0] < size + 5_000_000
