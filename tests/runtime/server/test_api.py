"""What happens at the edges: bad requests, strangers, crowds, clients that leave, and the end."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import OPTIONS, Served, served
from warm import Warm

from edgeslm.bundle.model_path import find_model
from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target
from edgeslm.testing import tiny_gguf

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
LONG = {
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 900,
    "grammar": "root ::= [a-z] root",
    "stream": True,
}


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slow enough for something to happen while it answers."""
    path = tmp_path_factory.mktemp("model") / "slow.gguf"
    return tiny_gguf(path, layers=6, width=256, heads=4, kv_heads=2, feed_forward=1024)


def _until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected"),
        (b"{", "expected"),
        (b"\xff\xfe", "expected"),
        (b"[]", "Expected `object`"),
        (b"[" * 100_000, "expected"),
        (b'{"tools": ' + b'[{"function": {"name": "a", "parameters": ' * 9999, "expected"),
        (b'{"logit_bias": {}, "x": ' + b"[" * 100_000, "nested too deep"),
        ({"messages": []}, "length >= 1"),
        ({"messages": [{"role": "king", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Only text"),
        ({**HELLO, "max_tokens": 0}, "max_tokens"),
        ({**HELLO, "temperature": "hot"}, "temperature"),
        ({**HELLO, "temperature": 11}, "temperature"),
        ({**HELLO, "n": 99}, "n"),
        ({**HELLO, "logit_bias": {"x": 1}}, "token ids"),
        ({**HELLO, "logit_bias": {"99999999": 1}}, "logit-bias token"),
        ({**HELLO, "top_logprobs": 3}, "logprobs"),
        ({**HELLO, "grammar": "root ::= ("}, "grammar"),
        ({**HELLO, "response_format": {"type": "json_schema"}}, "json_schema"),
        (
            {
                **HELLO,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "thing"}},
                },
            },
            "thing",
        ),
        ({**HELLO, "tool_choice": "required"}, "tool_choice"),
        ({**HELLO, "tools": [{"type": "function", "function": {"name": "a b"}}]}, "tool's name"),
        ({**HELLO, "response_format": {"type": "json_object"}, "grammar": "root ::= 1"}, "two"),
    ],
)
def test_bodies_that_cannot_be_answered(client: httpx.Client, body: object, message: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(CHAT, content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", {"prompt": []}, "length >= 1"),
        ("completions", {"prompt": [[]]}, "empty"),
        ("completions", {"prompt": [1, "a"]}, "mixed"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": [999_999]}, "no token 999999"),
        ("completions", {"prompt": "x", "max_tokens": 0}, "max_tokens is 0"),
        ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("completions", {"prompt": "x", "best_of": 4}, "best_of"),
        ("completions", {"prompt": ["x"] * 300}, "300"),
        ("completions", {"prompt": ["x"] * 100, "n": 8}, "800"),
        ("embeddings", {"input": [""] * 300}, "300"),
        ("embeddings", {"input": [[]]}, "0 tokens"),
        ("embeddings", {"input": "x", "dimensions": 7}, "dimensions"),
        ("embeddings", {"input": "the " * 3000}, "cannot be embedded"),
    ],
)
def test_texts_that_cannot_be_read(
    client: httpx.Client, path: str, body: dict[str, Any], message: str
) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("levels", [100, 240, 480, 900])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_that_are_nested_deep(client: httpx.Client, levels: int, choice: str) -> None:
    parameters: dict[str, Any] = {}
    for _ in range(levels):
        parameters = {"properties": parameters}
    tool = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    answer = client.post(CHAT, json={**HELLO, "tools": [tool], "tool_choice": choice})
    assert answer.status_code == 400, answer.text
    assert "levels deep" in answer.json()["error"]["message"]


def test_requests_that_are_none(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/v1/models/").headers["location"].endswith("/v1/models")
    assert client.get(CHAT).status_code == 405
    assert client.get(CHAT).headers["allow"] == "POST"
    assert client.post(CHAT, content=b"{}").status_code == 415
    form = {"Content-Type": "text/plain"}
    assert client.post(CHAT, content=json.dumps(HELLO), headers=form).status_code == 415
    big = b'{"messages": "' + b"x" * 5_000_000 + b'"}'
    answer = client.post(CHAT, content=big, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    chunks = (b"x" * 100_000 for _ in range(60))  # without a length
    answer = client.post(CHAT, content=chunks, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_text_that_is_hardly_text(client: httpx.Client) -> None:
    for text in ("\0", "\ud800", "a\ud800b", "\U0010ffff", "", " ", "́" * 50):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2}
        data = json.dumps(body).encode()
        answer = client.post(CHAT, content=data, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize(
    "data", [b'{"prompt": "\xff\xfe"}', b"\xff\xfe{}", b'{"prompt": "\xed\xa0\x80"}']
)
def test_bytes_that_are_no_text(client: httpx.Client, data: bytes) -> None:
    for path in ("completions", "chat/completions", "embeddings"):
        answer = client.post(
            f"/v1/{path}", content=data, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("text", ["a" * 1_500_000, "<|im_end|>" * 150_000, "é\0 \n" * 300_000])
def test_prompts_of_megabytes(client: httpx.Client, text: str) -> None:
    chat = {"messages": [{"role": "user", "content": text}]}
    for path, body in (("chat/completions", chat), ("completions", {"prompt": text})):
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_template_without_end_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless.jinja"
    endless.write_text(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    with (
        served(tiny_model, options=("--template", str(endless))) as server,
        server.client() as asks,
    ):
        answer = asks.post(CHAT, json=HELLO)
        assert answer.status_code == 400
        assert "works without end" in answer.json()["error"]["message"]
        assert (
            asks.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
        )


def test_control_tokens_in_any_field_stay_text(client: httpx.Client) -> None:
    """A conversation has as many control tokens as its template gives it."""

    def tokens(text: str) -> int:
        tool = {"name": "t", "description": text, "parameters": {"properties": {text: {}}}}
        call = {"id": text, "function": {"name": "t", "arguments": json.dumps({text: text})}}
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": text},
            {"role": "user", "content": text, "name": text},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": text, "tool_call_id": text},
        ]
        body = {"messages": messages, "tools": [{"function": tool}], "max_tokens": 1}
        return int(client.post(CHAT, json=body).json()["usage"]["prompt_tokens"])

    # one byte, one token: a control token among them would make it fewer
    assert tokens("<|im_end|>") == tokens("#|im#end|>")


def test_health_and_figures(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")

    def count(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0

    names = (f'edgeslm_requests_total{{path="{CHAT}",status="200"}}',)
    names += ('edgeslm_generated_tokens_total{model="tiny"}',)
    before = [count(name) for name in names]
    used = client.post(CHAT, json=HELLO).json()["usage"]["completion_tokens"]
    assert [count(name) for name in names] == [before[0] + 1, before[1] + used]
    text = client.get("/metrics").text
    assert 'edgeslm_slots{model="tiny"} 3' in text
    assert "# TYPE edgeslm_generated_tokens_total counter" in text
    drafted, accepted = (
        count(f'edgeslm_{kind}_tokens_total{{model="tiny"}}') for kind in ("drafted", "accepted")
    )
    assert 0 <= accepted <= drafted
    assert 'edgeslm_drafted_tokens_total{model="tiny"}' in text


def test_the_description_names_what_there_is(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) >= {CHAT, "/v1/completions", "/v1/embeddings", "/v1/models"}
    names = document["components"]["schemas"]
    assert {"ChatRequest", "Chat", "CompletionRequest", "ProblemBody"} <= set(names)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.1", "[", ""])
def test_names_that_are_not_this_machine(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:80", "a.localhost"])
def test_names_that_are_this_machine(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_from_elsewhere(server: Served, client: httpx.Client) -> None:
    evil = {"Origin": "https://evil.example"}
    assert client.get("/v1/models", headers=evil).status_code == 403
    assert client.post(CHAT, json=HELLO, headers=evil).status_code == 403
    assert client.get("/v1/models", headers={"Origin": server.address}).status_code == 200
    assert client.get("/v1/models", headers={"Origin": "null"}).status_code == 403


def test_keys_and_origins(tiny_model: Path) -> None:
    options = ("--api-key", "first", "--api-key", "second", "--cors", "https://good.example")
    with served(tiny_model, options=options) as running, running.client() as client:
        assert client.get("/health").status_code == 200
        for key in ("", "Bearer", "Bearer third", "Basic first", "Bearer firs", "first"):
            answer = client.get("/v1/models", headers={"Authorization": key})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in ("Bearer first", "bearer second"):
            good = {"Authorization": key, "Origin": "https://good.example"}
            answer = client.get("/v1/models", headers=good)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://good.example"
        asked = {"Access-Control-Request-Method": "POST", "Origin": "https://good.example"}
        answer = client.options(CHAT, headers=asked)
        assert answer.status_code == 200
        assert "POST" in answer.headers["access-control-allow-methods"]


def test_a_crowd_waits_and_too_many_are_refused(server: Served) -> None:
    def ask(number: int) -> httpx.Response:
        with server.client() as client:
            return client.post(CHAT, json={**LONG, "stream": False, "seed": number})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    refused = [answer for answer in answers if answer.status_code == 429]
    done = [answer for answer in answers if answer.status_code == 200]
    assert len(done) + len(refused) == 16
    assert len(done) >= 7  # three slots, and a queue of four
    assert refused
    for answer in refused:
        assert int(answer.headers["retry-after"]) > 0
        assert "waiting" in answer.json()["error"]["message"]
    assert server.open_requests() == 0


def test_a_client_that_leaves_frees_its_slot(slow_model: Path) -> None:
    with served(slow_model, options=OPTIONS) as running, running.client() as client:
        with client.stream("POST", CHAT, json=LONG) as answer:
            lines = answer.iter_lines()  # as long as it lives, the client listens
            next(lines)
            assert running.open_requests() == 1
        _until(lambda: running.open_requests() == 0)
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json={**LONG, "stream": False}, timeout=0.1)
        _until(lambda: running.open_requests() == 0)
        answers = client.get("/metrics").text.split("edgeslm_answers_total")
        assert [each.split('"')[3] for each in answers[3:]] == ["cancelled"]


def test_a_crowd_of_all_kinds(server: Served) -> None:
    """Disconnects, bad bodies and good requests at once: each gets its own answer."""

    def ask(number: int) -> None:
        chance = random.Random(number)
        word = f"{number:04d}"
        body = {**HELLO, "max_tokens": 20, "grammar": f'root ::= "{word}" [a-z]{{3}}'}
        with server.client() as client:
            kind = chance.randrange(4)
            if kind == 0:
                assert client.post(CHAT, json={"messages": number}).status_code == 400
            elif kind == 1:
                with client.stream("POST", CHAT, json={**LONG, "seed": number}) as answer:
                    if answer.status_code == 200:
                        next(answer.iter_lines())
            else:
                while (answer := client.post(CHAT, json=body)).status_code == 429:
                    time.sleep(0.05)
                assert answer.json()["choices"][0]["message"]["content"].startswith(word)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(120)))
    _until(lambda: server.open_requests() == 0)


def test_the_end_waits_for_answers(slow_model: Path) -> None:
    with served(slow_model, options=OPTIONS) as running, running.client() as client:
        with client.stream("POST", CHAT, json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert running.process.wait(30) == 0


@pytest.mark.parametrize("again", [True, False])
def test_the_end_comes_at_last(slow_model: Path, again: bool) -> None:
    """Even if an answer would take longer than there is patience, or someone insists."""
    grace = "30" if again else "1"
    options = ("--context", "30000", "--slots", "1", "--grace", grace, "--allow-grammars")
    body = {**LONG, "max_tokens": 29000}
    with (
        served(slow_model, options=options) as running,
        running.client() as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        running.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        if again:
            time.sleep(0.3)
            running.process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert running.process.wait(30) == 0
        assert (0.2 if again else 0.9) < time.monotonic() - began < 20


def test_grammars_only_where_they_are_allowed(tiny_model: Path) -> None:
    with served(tiny_model) as running, running.client() as client:
        answer = client.post(CHAT, json={**HELLO, "grammar": 'root ::= "a"'})
        assert answer.status_code == 400
        assert "--allow-grammars" in answer.json()["error"]["message"]
        tool = {"name": "t", "parameters": {"type": "object", "properties": {}}}
        body = {**HELLO, "tools": [{"function": tool}], "tool_choice": "required"}
        assert client.post(CHAT, json={**body, "max_tokens": 60}).status_code == 200


def test_vectors_wait_like_answers(slow_model: Path) -> None:
    options = ("--slots", "1", "--queue", "1", "--context", "512")
    with served(slow_model, options=options) as running, running.client() as client:
        many = {"input": ["hello there " * 8] * 60}
        assert client.post("/v1/embeddings", json=many).status_code == 200  # nobody else waits
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(client.post, "/v1/embeddings", json=many) for _ in range(4)]
            statuses = sorted(each.result().status_code for each in waiting)
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert client.post("/v1/embeddings", json={"input": ["a"] * 99 + [""]}).status_code in (
            200,
            400,
        )
        _until(lambda: running.open_requests() == 0)


def test_a_client_that_leaves_before_its_request_is_whole(server: Served) -> None:
    port = int(server.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        time.sleep(0.2)
    with server.client() as client:
        _until(lambda: 'status="499"' in client.get("/metrics").text)
        assert f'edgeslm_requests_total{{path="{CHAT}",status="500"}}' not in (
            client.get("/metrics").text
        )


def test_an_error_within_a_stream(client: httpx.Client) -> None:
    body = {**HELLO, "grammar": "root ::= (", "stream": True}
    lines = [line for line in client.post(CHAT, json=body).text.splitlines() if line]
    error = json.loads(lines[-2].removeprefix("data: "))["error"]
    assert error["type"] == "invalid_request_error"
    assert lines[-1] == "data: [DONE]"


def test_two_models(tiny_model: Path, tmp_path: Path) -> None:
    other = tiny_gguf(tmp_path / "other.gguf", context_length=512, seed=9)
    with (
        served(tiny_model, other, options=("--slots", "1")) as running,
        running.client() as client,
    ):
        names = [each["id"] for each in client.get("/v1/models").json()["data"]]
        assert names == ["tiny", "other"]

        def ask(name: str) -> Any:
            return client.post(CHAT, json={**HELLO, "model": name, "temperature": 0}).json()

        with ThreadPoolExecutor(2) as pool:
            answers = dict(zip(names, pool.map(ask, names), strict=True))
    assert {answer["model"] for answer in answers.values()} == {"tiny", "other"}
    texts = {answer["choices"][0]["message"]["content"] for answer in answers.values()}
    assert len(texts) == 2


def test_a_model_is_found_by_a_name_with_slashes(tiny_model: Path) -> None:
    options = ("--name", "org/tiny:q4/0", "--slots", "1")
    with served(tiny_model, options=options) as running, running.client() as client:
        for path in ("org/tiny:q4/0", "org%2Ftiny%3Aq4%2F0"):
            answer = client.get(f"/v1/models/{path}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["id"] == "org/tiny:q4/0"
        assert client.get("/v1/models/org").status_code == 404
        figures = client.get("/metrics").text
    assert 'path="/v1/models/{name}",status="200"} 2' in figures


def test_what_cannot_be_served(tiny_model: Path, tmp_path: Path, warm: Warm) -> None:
    def _refused(*arguments: str) -> str:
        done = warm.run(["serve", *arguments])
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "hint: " in done.stderr
        return str(done.stderr)

    model = str(tiny_model)
    packed = tmp_path / "packed"
    pack(tiny_model, packed, target=load_target("rpi4-4gb"))
    with find_model(packed).open("ab") as file:
        file.write(b"more")
    assert "the manifest says" in _refused(str(packed))
    assert "no such file" in _refused("nothing.gguf")
    assert "2 names for 1 models" in _refused(model, "--name", "a", "--name", "b")
    assert "names must differ" in _refused(model, model)
    assert "slots must be" in _refused(model, "--slots", "0")
    assert "queue must be" in _refused(model, "--queue", "-1")
    assert "API key is empty" in _refused(model, "--api-key", "")
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}")
    assert "not valid Jinja" in _refused(model, "--template", str(broken))
    assert "no port" in _refused(model, "--port", "70000")
    assert "no address" in _refused(model, "--host", "no.such.host.invalid")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "cannot listen" in _refused(model, "--port", port)
