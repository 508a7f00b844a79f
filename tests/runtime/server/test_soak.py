"""Many clients for a long time, half of them badly behaved: nothing leaks, nothing is mixed up."""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from processes import Served, served

_PROMPTS = [f"Number {number} is" for number in range(12)]
_CERTAIN = [", ".join(map(str, range(10 * ten, 10 * ten + 5))) + "," for ten in range(1, 10)]
"""What a trained model says next is certain, and differs."""
_CLIENTS = 6
_MODEL = os.environ.get("EDGESLM_SMOLLM2_GGUF", "")
_CONTEXT, _SLOTS = 512, 3
_OPTIONS = ("--name", "m", "--context", str(_CONTEXT), "--slots", str(_SLOTS), "--queue", "64")


def _body(prompt: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": 8, "temperature": 0, "seed": 1, **more}


def _ask(client: httpx.Client, prompt: str, *, stream: bool) -> str:
    """An answer, whole or in pieces."""
    if not stream:
        answer = client.post("/v1/completions", json=_body(prompt))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])
    text = ""
    with client.stream("POST", "/v1/completions", json=_body(prompt, stream=True)) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                text += httpx.Response(200, text=line[6:]).json()["choices"][0]["text"]
    return text


def _leave(server: Served, client: httpx.Client, chance: random.Random) -> None:
    """A client that goes away in the middle of something."""
    body = _body(chance.choice(_PROMPTS), max_tokens=400)
    kind = chance.randrange(3)
    if kind == 0:  # while the answer comes
        with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            next(answer.iter_raw())
        return
    host, _, port = server.address.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
        raw.sendall(b"Content-Type: application/json\r\n")
        raw.sendall(b"Content-Length: %d\r\n\r\n" % len(data))
        if kind == 1:  # while it waits for a whole one
            raw.sendall(data)
            time.sleep(0.02)
        else:  # before its request is whole
            raw.sendall(data[:-1])


def _be_wrong(client: httpx.Client, chance: random.Random) -> None:
    """A request that cannot be answered."""
    kind, headers = chance.randrange(6), {"Content-Type": "application/json"}
    bodies: list[bytes] = [
        b'{"prompt": "a' + b"a" * (5 << 20) + b'"}',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": ',
        b"[" * 5000,
        b'{"prompt": "x", "max_tokens": -1}',
        b'{"prompt": "' + b"long " * 2000 + b'"}',
    ]
    answer = client.post("/v1/completions", content=bodies[kind], headers=headers)
    assert answer.status_code in (400, 413), answer.text


def _soak(
    server: Served, requests: int, expected: dict[str, str], seed: int, length: int | None
) -> int:
    """So many requests by several clients at once; how many were answered, and rightly."""

    def one_client(number: int) -> int:
        chance, right = random.Random(1000 * seed + number), 0
        with server.client() as client:
            for _ in range(requests // _CLIENTS):
                kind = chance.random()
                if kind < 0.2:
                    _leave(server, client, chance)
                elif kind < 0.35:
                    _be_wrong(client, chance)
                else:
                    prompt = chance.choice(list(expected))
                    got = _ask(client, prompt, stream=kind < 0.7)
                    # a large model rounds by the company that its tokens have; begin alike
                    assert got[:length] == expected[prompt][:length]
                    right += 1
        return right

    with ThreadPoolExecutor(_CLIENTS) as pool:
        return sum(pool.map(one_client, range(_CLIENTS)))


def _quiet(server: Served) -> None:
    """Wait until nothing is open any more."""
    until = time.monotonic() + 60
    while server.open_requests():
        assert time.monotonic() < until, "a request is still open"
        time.sleep(0.05)


def _fill(server: Served) -> None:
    """Use every position of every slot's cache once: a cache takes its memory as it fills."""

    def fill(token: int) -> None:
        with server.client() as client:
            body = _body("") | {"prompt": [token] * (_CONTEXT - 10)}
            assert client.post("/v1/completions", json=body).status_code == 200

    with ThreadPoolExecutor(_SLOTS) as pool:
        list(pool.map(fill, range(20, 20 + _SLOTS)))


def _run(
    server: Served,
    warm_up: int,
    rounds: int,
    requests: int,
    prompts: list[str] = _PROMPTS,
    length: int | None = None,
) -> tuple[int, list[int]]:
    """Answers, and resident bytes after the warm-up and after each round.

    So many characters of the answers are compared; None for all.
    """
    with server.client() as client:
        expected = {prompt: _ask(client, prompt, stream=False) for prompt in prompts}
    _fill(server)
    answered = _soak(server, warm_up, expected, 0, length)
    _quiet(server)
    resident = [server.resident_bytes()]
    for number in range(1, rounds + 1):
        answered += _soak(server, requests, expected, number, length)
        _quiet(server)
        resident.append(server.resident_bytes())
    return answered, resident


def test_nothing_is_mixed_up_or_left_open(tiny_model: Path) -> None:
    with served(tiny_model, options=_OPTIONS) as server:
        answered, _ = _run(server, 0, 1, 204)
    assert answered > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", ["tiny", "real"])
def test_nothing_leaks(tiny_model: Path, model: str) -> None:
    if model == "real" and not _MODEL:
        pytest.skip("EDGESLM_SMOLLM2_GGUF is not set")
    path = tiny_model if model == "tiny" else Path(_MODEL)
    with served(path, options=_OPTIONS) as server:
        answered, resident = _run(server, 600, 5, 402, *((_CERTAIN, 3) if model == "real" else ()))
    print(f"\n{model}: {answered} right answers, resident {[r // 1024 for r in resident]} KiB")
    growth = statistics.median(resident[-3:]) / resident[0] - 1
    print(f"growth {growth:.2%}")
    assert growth < 0.02
