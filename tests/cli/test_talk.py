from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]

LONG = ("--context", "100000")
GREEDY = ("--temperature", "0", "--threads", "1")


def test_the_answer_is_on_stdout_and_the_figures_on_stderr(
    edgeslm: Edgeslm, tiny_model: Path
) -> None:
    done = edgeslm("run", tiny_model, "-p", "hello", "-n", 6, *GREEDY)
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert len(done.stdout) > 1
    assert "+ 6 tokens" in done.stderr
    assert "tokens/s" in done.stderr
    assert edgeslm("run", tiny_model, "-p", "hello", "-n", 6, *GREEDY).stdout == done.stdout


def test_json_holds_the_answer_and_what_it_took(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("run", tiny_model, "-p", "hello", "-n", 6, "--json", *GREEDY)
    data = json.loads(done.stdout)
    assert len(data["tokens"]) == 6
    assert data["finish_reason"] == "length"
    assert data["decode_tokens_per_second"] > 0
    assert isinstance(data["text"], str)


def test_an_answer_that_fits_a_schema(edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path) -> None:
    schema = tmp_path / "city.json"
    schema.write_text(
        '{"type": "object", "properties": {"big": {"type": "boolean"}}, '
        '"required": ["big"], "additionalProperties": false}'
    )
    done = edgeslm("run", tiny_model, "-p", "hello", "--json-schema", schema, *GREEDY)
    assert json.loads(done.stdout)["big"] in (True, False)


def test_an_answer_that_follows_a_grammar(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path
) -> None:
    grammar = tmp_path / "verdict.gbnf"
    grammar.write_text('root ::= "yes" | "no"')
    done = edgeslm("run", tiny_model, "-p", "hello", "--grammar", grammar, "--seed", 1)
    assert done.stdout in ("yes\n", "no\n")


def test_raw_leaves_the_chat_template_out(edgeslm: Edgeslm, tiny_model: Path) -> None:
    def prompt_tokens(*options: str) -> int:
        done = edgeslm("run", tiny_model, "-p", "hello", "-n", 1, "--json", *options, *GREEDY)
        return int(json.loads(done.stdout)["prompt_tokens"])

    assert prompt_tokens("--raw") < prompt_tokens() < prompt_tokens("--system", "Be brief.")


def test_another_template(edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "turns.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}:{% endfor %}")
    ask = ("run", tiny_model, "-p", "hello", "-n", 4, *GREEDY)
    assert edgeslm(*ask, "--template", template).stdout == (
        edgeslm("run", tiny_model, "--raw", "-p", "hello:", "-n", 4, *GREEDY).stdout
    )
    bare = tmp_path / "bare.gguf"
    named = tiny_model.read_bytes()
    bare.write_bytes(named.replace(b"tokenizer.chat_template", b"tokenizer.chat_nothing_"))
    done = edgeslm("chat", bare, "--template", template, "-n", 4, stdin="hello\n/quit\n")
    assert done.returncode == 0
    template.write_text("{% for %}")
    assert "not valid Jinja" in edgeslm(*ask, "--template", template).stderr
    assert "--template needs" in edgeslm(*ask, "--template", template, "--raw").stderr


def test_the_prompt_may_come_from_a_pipe(edgeslm: Edgeslm, tiny_model: Path) -> None:
    piped = edgeslm("run", tiny_model, "-p", "-", "-n", 4, *GREEDY, stdin="hello")
    given = edgeslm("run", tiny_model, "-p", "hello", "-n", 4, *GREEDY)
    assert piped.stdout == given.stdout


def test_ctrl_c_stops_the_answer_and_says_so(tiny_model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeslm", "run", str(tiny_model), "-p", "hello", *GREEDY, *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert b"ended by cancelled" in errors


def test_a_reader_that_leaves_early_causes_no_traceback(tiny_model: Path) -> None:
    command = f"{sys.executable} -m edgeslm run {tiny_model} -p hello --temperature 0 -n 200"
    done = subprocess.run(
        f"{command} | head -c 5", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert len(done.stdout) >= 1


def _chat(model: Path, *options: str) -> pexpect.spawn:
    chat = pexpect.spawn(
        sys.executable,
        ["-m", "edgeslm", "chat", str(model), *GREEDY, *options],
        env=os.environ | {"TERM": "dumb"},
        encoding="utf-8",
        codec_errors="replace",
        timeout=60,
    )
    chat.expect("Chatting offline")
    chat.expect("> ")
    return chat


def test_a_chat_in_a_terminal(tiny_model: Path, tmp_path: Path) -> None:
    chat = _chat(tiny_model, "--context", "512")
    for line, expected in (
        ("hello", r"tokens/s.*\]|tokens, first.*\]"),
        ("/stats", "first after"),
        ("/undo", "took back: hello"),
        ("/undo", "nothing to take back"),
        ("/nonsense", "error: there is no command /nonsense"),
        ("/regen", "nothing to answer again"),
        ("/system Be brief.", "system: Be brief."),
        ("/help", "/save FILE"),
        (f"/save {tmp_path}/chat.json", "saved"),
        ("/save /no/such/folder/chat.json", "hint: Create"),
        ("/clear", "begun anew"),
    ):
        chat.sendline(line)
        chat.expect(expected)
        chat.expect("> ")
    assert json.loads((tmp_path / "chat.json").read_text()) == [
        {"role": "system", "content": "Be brief."}
    ]
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_several_lines_make_one_message(tiny_model: Path, tmp_path: Path) -> None:
    chat = _chat(tiny_model, "--context", "256")
    for first, rest in (("one\\", ["two"]), ('"""one', ["two", 'three"""'])):
        chat.sendline(first)
        for line in rest:
            chat.expect(r"\. ")
            chat.sendline(line)
        chat.expect(r"\]\s")
        chat.expect("> ")
    chat.sendline(f"/save {tmp_path}/chat.json")
    chat.expect("saved")
    messages = json.loads((tmp_path / "chat.json").read_text())
    said = [message["content"] for message in messages if message["role"] == "user"]
    assert said == ["one\ntwo", "one\ntwo\nthree"]
    chat.close(force=True)


def test_ctrl_c_stops_the_answer_and_not_the_chat(tiny_model: Path) -> None:
    chat = _chat(tiny_model, "--context", "100000")
    chat.sendline("hello")
    time.sleep(1)
    chat.sendintr()
    chat.expect("ended by cancelled")
    chat.expect("> ")
    chat.sendintr()
    chat.expect("Ctrl-D or /quit ends the chat")
    chat.sendline("/stats")
    chat.expect("ended by cancelled")
    chat.sendline("/quit")
    chat.expect(pexpect.EOF)


def test_a_chat_through_a_pipe_answers_each_line(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("chat", tiny_model, *GREEDY, "--context", 128, "--json", stdin="one\ntwo\n")
    assert done.returncode == 0
    exchanges = [json.loads(line) for line in done.stdout.splitlines()]
    assert [exchange["prompt"] for exchange in exchanges] == ["one", "two"]
    assert all(exchange["text"] for exchange in exchanges)


def test_a_long_system_prompt_is_read_once(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path))
    ask = ("run", tiny_model, "-p", "hi", "--system", "You are kind. " * 20, "-n", 4, "--json")
    for cache, reused in (("0", False), ("0", False), ("10M", False), ("10M", True), ("0", False)):
        answer = json.loads(edgeslm(*ask, *GREEDY, "--prompt-cache", cache).stdout)
        assert bool(answer["reused_tokens"]) == reused
    assert len(list((tmp_path / "states").iterdir())) == 1


def test_a_draft_model_changes_no_answer(edgeslm: Edgeslm, tiny_model: Path) -> None:
    ask = ("run", tiny_model, "-p", "hello", "-n", 30, "--json", *GREEDY)
    plain = json.loads(edgeslm(*ask, "--no-speculate").stdout)
    assert plain["drafted_tokens"] == plain["accepted_tokens"] == 0
    done = edgeslm(*ask, "--draft", tiny_model)
    assert done.returncode == 0
    assert json.loads(done.stdout)["tokens"][:8] == plain["tokens"][:8]


def test_draft_models_that_do_not_fit(edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_model.read_bytes().replace(b"<|im_start|>", b"<|im_begin|>"))
    for command in (
        ("run", tiny_model, "-p", "hello"),
        ("chat", tiny_model),
        ("serve", tiny_model),
    ):
        done = edgeslm(*command, "--draft", other)
        assert done.returncode == 2
        assert "their vocabularies differ" in done.stderr
    done = edgeslm("run", tiny_model, "-p", "hello", "--draft", tiny_model, "--no-speculate")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr
    done = edgeslm("serve", tiny_model, other, "--draft", tiny_model)
    assert done.returncode == 2
