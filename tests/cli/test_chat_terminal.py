"""The chat as people have it: the real program on a pseudo-terminal."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from saying_model import saying_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]

MARKDOWN = (
    b"# Title\n",
    b"Some **bo",
    b"ld** and *it",
    b"alic*.\n\n```py\n",
    b"x = 1  # `a`\n``",
    b"`\n- item\n",
)
STYLED = (
    "\x1b[1;4mTitle\x1b[0m\nSome \x1b[1mbold\x1b[0m and \x1b[3mitalic\x1b[0m.\n\n"
    "\x1b[2m```py\x1b[0m\n\x1b[36mx = 1  # `a`\x1b[0m\n\x1b[2m```\x1b[0m\n\x1b[1m-\x1b[0m item\n"
)
HOSTILE = (b"so \x1b[2J\x1b]0;title\x07", b" \xc2\x9b2J \x08\x08\r", b"\xe2\x80\xaeexe.gpj\x7f")
SHOWN = "so \ufffd[2J\ufffd]0;title\ufffd \ufffd2J \ufffd\ufffd\ufffd\ufffdexe.gpj\ufffd"
SGR = re.compile(r"\x1b\[[0-9;]*m")
EDITING = re.compile(r"\x1b\[\?2004[hl]\r?")
"""What readline prints before and after a line."""
FIGURES = r"\d+ of \d+ tokens[^\]]*\]"


@pytest.fixture(scope="module")
def sayings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that say one thing each."""
    folder = tmp_path_factory.mktemp("sayings")
    saying_gguf(folder / "markdown.gguf", MARKDOWN)
    saying_gguf(folder / "hostile.gguf", HOSTILE)
    saying_gguf(folder / "yes.gguf", [b"Yes."])
    saying_gguf(folder / "endless.gguf", [b"on ", b"and "], forever=True)
    return folder


class Chats:
    """Starts chats whose state lies in a folder of its own."""

    def __init__(self, sayings: Path, state: Path) -> None:
        self._sayings = sayings
        self.state = state
        self._started: list[pexpect.spawn] = []

    def command(self, model: str, *options: str) -> list[str]:
        path = self._sayings / f"{model}.gguf"
        given = ("-t", "1", "--temperature", "0", "--context", "512", *options)
        return ["-m", "edgeslm", "chat", str(path), *given]

    def environment(self, **variables: str) -> dict[str, str]:
        usual = {"TERM": "xterm", "NO_COLOR": "", "EDGESLM_STATE": str(self.state)}
        return os.environ | usual | variables

    def start(
        self, model: str, *options: str, deaf: bool = False, **variables: str
    ) -> pexpect.spawn:
        """Start a chat and wait for its prompt; `deaf` ones hear of no hang-up, as under nohup."""
        chat = pexpect.spawn(
            sys.executable,
            self.command(model, *options),
            env=self.environment(**variables),
            encoding="utf-8",
            timeout=60,
            dimensions=(24, 120),
            ignore_sighup=deaf,
        )
        self._started.append(chat)
        chat.logfile_read = io.StringIO()
        chat.expect_exact("Ctrl-D ends.")
        chat.expect_exact("> ")
        return chat

    def kept(self) -> list[dict[str, Any]]:
        paths = sorted((self.state / "chats").glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [json.loads(path.read_text()) for path in paths]

    def close(self) -> None:
        for chat in self._started:
            chat.close(force=True)


@pytest.fixture
def chats(sayings: Path, tmp_path: Path) -> Iterator[Chats]:
    chats = Chats(sayings, tmp_path / "state")
    yield chats
    chats.close()


def _say(chat: pexpect.spawn, text: str, expected: str = FIGURES) -> str:
    """Type a line; what is printed until `expected` and the next prompt."""
    chat.sendline(text)
    chat.expect(expected)
    printed = str(chat.before) + str(chat.after)
    chat.expect_exact("> ")
    return printed.replace("\r\n", "\n")


def _end(chat: pexpect.spawn) -> int | None:
    chat.sendline("/quit")
    chat.expect(pexpect.EOF)
    chat.close()
    return chat.exitstatus


def test_an_answer_in_markdown_is_styled(chats: Chats) -> None:
    chat = chats.start("markdown")
    printed = _say(chat, "hello")
    assert STYLED in printed
    assert re.search(r"\x1b\[2m\[.*of 512 tokens.*\]$", printed)
    assert _end(chat) == 0


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (("--plain",), {"TERM": "vt100"}),
        ((), {"TERM": "dumb"}),
        ((), {"NO_COLOR": "1"}),
    ],
)
def test_plain_mode_prints_what_the_model_wrote(
    chats: Chats, options: tuple[str, ...], variables: dict[str, str]
) -> None:
    chat = chats.start("markdown", *options, **variables)
    printed = _say(chat, "hello")
    assert b"".join(MARKDOWN).decode() in printed
    assert "\x1b" not in EDITING.sub("", printed)


@pytest.mark.parametrize("options", [(), ("--plain",), ("--json",)])
def test_what_a_model_says_never_steers_the_terminal(
    chats: Chats, options: tuple[str, ...]
) -> None:
    chat = chats.start("hostile", *options)
    chat.sendline("hello")
    chat.expect_exact("\r\n")
    chat.expect("gpj[^\r]*\r\n")
    printed = EDITING.sub("", SGR.sub("", str(chat.before) + str(chat.after))).rstrip("\r\n")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", printed)
    if options == ("--json",):
        assert json.loads(printed[printed.index("{") :])["text"] == b"".join(HOSTILE).decode()
    else:
        assert SHOWN in printed


def test_nor_does_it_in_a_pipe(chats: Chats) -> None:
    done = subprocess.run(
        [sys.executable, *chats.command("hostile")],
        input="hello\n",
        capture_output=True,
        text=True,
        env=chats.environment(),
        check=True,
    )
    assert done.stdout == SHOWN + "\n"
    assert not chats.state.exists()


def test_a_conversation_goes_on_in_the_next_chat(chats: Chats) -> None:
    chat = chats.start("yes", "--system", "Be brief.")
    _say(chat, "is it so?")
    assert _end(chat) == 0
    (path,) = (chats.state / "chats").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    chat = chats.start("yes", "--continue")
    assert "going on after 1 exchange\r\n> is it so?\r\nYes.\r\n" in _since_start(chat)
    _say(chat, "truly?")
    assert "is it so?  (2 exchanges, yes)" in _say(chat, "/history", r"yes\)")
    _end(chat)
    (kept,) = chats.kept()
    assert kept["model"] == "yes"
    assert [message["content"] for message in kept["messages"]] == [
        *("Be brief.", "is it so?", "Yes.", "truly?", "Yes.")
    ]


def test_another_model_of_the_same_name_begins_anew(
    chats: Chats, sayings: Path, tmp_path: Path
) -> None:
    chat = chats.start("yes")
    _say(chat, "is it so?")
    _end(chat)
    (tmp_path / "other").mkdir()
    saying_gguf(tmp_path / "other" / "yes.gguf", [b"No."])
    others = Chats(tmp_path / "other", chats.state)
    try:
        chat = others.start("yes", "--continue")
        printed = _since_start(chat)
        assert "the conversation kept was with another model called yes" in printed
        assert "going on" not in printed
        assert "No." in _say(chat, "and now?")
        said = _say(chat, "/load 2", r"going on [^\r]*")
        assert "after 1 exchange with another model called yes" in said
        _end(chat)
    finally:
        others.close()
    (tmp_path / "moved").mkdir()
    shutil.copy(sayings / "yes.gguf", tmp_path / "moved" / "agrees.gguf")
    moved = Chats(tmp_path / "moved", chats.state)
    try:
        chat = moved.start("agrees", "--continue")
        assert "going on after 1 exchange\r\n> is it so?" in _since_start(chat)
    finally:
        moved.close()


def test_nothing_is_saved_before_something_is_said(chats: Chats) -> None:
    chat = chats.start("yes", "--system", "Be brief.")
    printed = _say(chat, "/save", "hint: Say something first")
    assert "error: there is nothing to keep yet" in printed
    _say(chat, "hello")
    printed = _say(chat, "/save", r"saved .*\.json")
    assert Path(printed.split("saved ")[1].strip()).is_file()
    _say(chat, "/undo", "took back")
    _say(chat, "/save", "error: there is nothing to keep yet")
    assert chats.kept() == []
    assert _end(chat) == 0


def _since_start(chat: pexpect.spawn) -> str:
    """What a chat printed since it began."""
    return str(chat.logfile_read.getvalue())


def test_any_kept_conversation_can_be_gone_on_with(chats: Chats) -> None:
    chat = chats.start("yes")
    _say(chat, "first")
    assert "begun anew; /history has what was said" in _say(chat, "/clear", "said")
    _say(chat, "second")
    _end(chat)
    chat = chats.start("markdown")
    listed = _say(chat, "/history", r"first.*yes\)")
    assert re.search(r" 1  \S+ \S+  second .*\n.* 2  \S+ \S+  first", listed)
    said = _say(chat, "/load 2", "answers\r\n")
    assert "going on after 1 exchange with yes; now markdown answers" in said
    _say(chat, "third")
    _end(chat)
    assert [(kept["model"], len(kept["messages"])) for kept in chats.kept()] == [
        ("yes", 2),
        ("markdown", 4),
    ]


def test_programs_may_keep_what_they_say(chats: Chats) -> None:
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *chats.command("yes", "--continue")],
            input="so?\n",
            capture_output=True,
            text=True,
            env=chats.environment(),
            check=True,
        )
        assert done.stdout == "Yes.\n"
        told.append("warning: no conversation with yes is kept" in done.stderr)
    assert told == [True, False]
    (kept,) = chats.kept()
    assert len(kept["messages"]) == 4


def test_conversations_in_files(chats: Chats, tmp_path: Path) -> None:
    chat = chats.start("yes", "--no-history")
    _say(chat, "first")
    _say(chat, f"/save {tmp_path}/said.json", "saved")
    _say(chat, "/clear", "begun anew\r")
    assert "> first\nYes.\n" in _say(chat, f"/load {tmp_path}/said.json", "Yes.\r\n")
    (tmp_path / "half.json").write_text('[{"role": "user", "cont')
    (tmp_path / "other.json").write_text('{"schema": "edgeslm.card/1"}')
    for name, problem in (
        ("half.json", "damaged, or not JSON"),
        ("other.json", "not a conversation"),
        ("none.json", "no such file"),
    ):
        assert "error: " in _say(chat, f"/load {tmp_path}/{name}", problem)
    _say(chat, "/save", "error: this chat keeps no conversations")
    _say(chat, "/history", "error: this chat keeps no conversations")
    _say(chat, "second")
    assert _end(chat) == 0
    assert not chats.state.exists()


def test_damaged_conversations_are_listed_and_refused(chats: Chats) -> None:
    chat = chats.start("yes")
    _say(chat, "hello")
    (path,) = (chats.state / "chats").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    _say(chat, "/history", "damaged, or not JSON")
    _say(chat, "/load 1", "error: .*damaged")
    _say(chat, "/load 7", "there is no conversation 7")
    assert _end(chat) == 0


def test_a_full_disk_ends_no_chat(chats: Chats) -> None:
    chats.state.mkdir()
    (chats.state / "chats").write_text("in the way")
    chat = chats.start("yes")
    assert "warning: this conversation is not kept" in _say(chat, "hello")
    assert "warning" not in _say(chat, "hello")
    assert _end(chat) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_hangup_keeps_the_answer_so_far(chats: Chats, number: signal.Signals) -> None:
    chat = chats.start("endless", "--context", "100000")
    chat.sendline("go on")
    chat.expect("and on and on")
    chat.kill(number)
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 128 + number
    (kept,) = chats.kept()
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"]
    assert kept["messages"][1]["content"].startswith("on and on and on")
    assert "go on" in (chats.state / "typed").read_text()


@pytest.mark.parametrize("deaf", [False, True])
def test_a_terminal_that_is_gone_keeps_the_answer_so_far(chats: Chats, deaf: bool) -> None:
    chat = chats.start("endless", "--context", "100000", deaf=deaf)
    chat.sendline("go on")
    chat.expect("and on and on")
    chat.ptyproc.fileobj.close()  # and no signal from us
    chat.closed = chat.ptyproc.closed = True
    for _ in range(600):
        if not chat.isalive():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the chat did not end")
    (kept,) = chats.kept()
    assert kept["messages"][1]["content"].startswith("on and on and on")


def test_ctrl_c_keeps_what_was_said(chats: Chats) -> None:
    chat = chats.start("endless", "--context", "100000")
    chat.sendline("go on")
    chat.expect("and on and on")
    chat.sendintr()
    chat.expect("ended by cancelled")
    chat.expect_exact("> ")
    (kept,) = chats.kept()
    assert kept["messages"][1]["content"].startswith("on and on and on")
    assert _end(chat) == 0


def test_pasted_lines_make_one_message(chats: Chats, tmp_path: Path) -> None:
    (tmp_path / "inputrc").write_text("set enable-bracketed-paste off\n")  # as before readline 8.1
    chat = chats.start("yes", INPUTRC=str(tmp_path / "inputrc"))
    chat.send("\x1b[200~one\rtwo\rthree\x1b[201~")
    chat.expect_exact("three")
    assert not list(chats.state.rglob("*.json"))
    _say(chat, " four")
    (kept,) = chats.kept()
    assert kept["messages"][0]["content"] == "one\ntwo\nthree four"
    assert _end(chat) == 0
    assert (chats.state / "typed").read_text().splitlines()[0] == "one two three four"


def test_tab_completes_commands_settings_and_files(chats: Chats, tmp_path: Path) -> None:
    chat = chats.start("yes", "--no-history")
    chat.send("/hel\t")
    chat.expect_exact("/help ")
    chat.sendline("")
    chat.expect("this list")
    chat.expect_exact("> ")
    _say(chat, "/set temp\t0.5", "temperature: 0.5")
    _say(chat, f"/save {tmp_path}/chat.json", "saved")
    _say(chat, f"/load {tmp_path}/cha\t", "going on after 0 exchanges")


def test_settings(chats: Chats) -> None:
    chat = chats.start("yes")
    _say(chat, "/set seed 7", "seed: 7")
    _say(chat, "/set n 1", "n: 1")
    _say(chat, "/set", "seed +7")
    assert "ended by length" in _say(chat, "hello")
    _say(chat, "/set top-p 7", "error: top-p is out of range")
    _say(chat, "/set heat 7", "error: there is no setting heat")
    _say(chat, "/set seed", "error: no value for seed")
    _say(chat, "/set seed x", "error: seed needs a number")
    assert _end(chat) == 0


def test_the_last_message_can_be_changed(chats: Chats) -> None:
    chat = chats.start("yes")
    _say(chat, "/edit", "nothing to change")
    _say(chat, "hello")
    chat.sendline("/edit")
    chat.expect_exact("> hello")
    _say(chat, " world")
    (kept,) = chats.kept()
    assert [message["content"] for message in kept["messages"]] == ["hello world", "Yes."]


def test_exchanges_left_out_are_told_once(chats: Chats) -> None:
    chat = chats.start("yes", "--context", "128")
    told = [bool("no longer fit" in _say(chat, f"message {number}")) for number in range(12)]
    assert 1 <= sum(told) <= 4
    assert not any(one and next_one for one, next_one in itertools.pairwise(told))


def test_an_idle_chat_sleeps(chats: Chats) -> None:
    chat = chats.start("yes")
    _say(chat, "hello")
    tasks = Path(f"/proc/{chat.pid}/task")
    if not tasks.is_dir():
        pytest.skip("only Linux tells how often a process was woken")

    def woken() -> list[str]:
        lines = [(task / "status").read_text() for task in sorted(tasks.iterdir())]
        return [line for text in lines for line in text.splitlines() if "ctxt_switches" in line]

    time.sleep(1)  # what the answer began has ended
    before = woken()
    time.sleep(2)
    assert woken() == before


def test_windows_change_their_size(chats: Chats) -> None:
    chat = chats.start("endless", "--context", "100000")
    chat.setwinsize(10, 30)
    chat.sendline("go on")
    chat.expect("and on and on")
    chat.setwinsize(40, 150)
    chat.expect("and on and on")
    chat.sendintr()
    chat.expect("ended by cancelled")
    chat.expect_exact("> ")
    assert _end(chat) == 0


def test_a_chat_can_be_stopped_and_gone_on_with(chats: Chats) -> None:
    shell = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        env=chats.environment(PS1="sh$ ", HISTFILE=""),
        encoding="utf-8",
        timeout=60,
    )
    shell.expect_exact("sh$ ")
    shell.sendline(" ".join([sys.executable, *chats.command("yes")]))
    shell.expect_exact("Ctrl-D ends.")
    shell.expect_exact("> ")
    shell.send("\x1a")
    shell.expect("Stopped")
    shell.expect_exact("sh$ ")
    shell.sendline("fg")
    shell.expect("edgeslm chat")
    _say(shell, "hello")
    shell.send("two\x7f\x7f\x7fthree")
    shell.expect_exact("three")
    _say(shell, "")
    (kept,) = chats.kept()
    assert [message["content"] for message in kept["messages"][::2]] == ["hello", "three"]
    shell.sendline("/quit")
    shell.expect_exact("sh$ ")
    shell.close(force=True)
