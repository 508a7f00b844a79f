from __future__ import annotations

import errno
import io
import json
import signal

import pytest

from edgeslm.cli.display import Display, status_line
from edgeslm.cli.output import json_line, one_line, terminal_text
from edgeslm.cli.streaming import outliving_hangup
from edgeslm.runtime.generation import FinishReason, Generation

ANSWER = Generation("so", (1, 2, 3), FinishReason.STOP, 20, 5, 0.5, 0.1, 7)


def test_the_status_line() -> None:
    assert status_line(ANSWER, 512, None) == "20.0 tokens/s, 23 of 512 tokens"
    assert status_line(ANSWER, 512, 53.7) == "20.0 tokens/s, 23 of 512 tokens, 54 °C"
    one = Generation("so", (1,), FinishReason.LENGTH, 20, 5, 0.5, 0.0, 7)
    assert status_line(one, 512, None) == "21 of 512 tokens, ended by length"


def test_a_terminal_that_is_gone_stops_only_the_showing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.EIO, "gone")

    monkeypatch.setattr("sys.stdout", Gone())
    display = Display(styled=False, interactive=True)
    with display.answer() as show:
        show("so")
    assert display.failure is not None
    assert display.failure.errno == errno.EIO


def test_other_troubles_with_output_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("sys.stdout", Full())
    answer = Display(styled=False, interactive=True).answer()
    with pytest.raises(OSError, match="full"), answer as show:
        show("so")


def test_styles_end_with_an_answer_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(styled=True, interactive=True)
    with pytest.raises(ZeroDivisionError), display.answer() as show:
        show("**so")
        raise ZeroDivisionError
    assert capsys.readouterr().out == "\x1b[1mso\x1b[0m\n"
    with pytest.raises(ZeroDivisionError), display.answer():
        raise ZeroDivisionError
    assert capsys.readouterr().out == ""


def test_notes_are_for_people_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    Display(styled=False, interactive=False).tell("unseen")
    display = Display(styled=False, interactive=True)
    display.tell("took back: \x1b[2J\u202e\nx")
    display.hint("\x9b1m")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "took back: \ufffd[2J\ufffd\nx\n\ufffd1m\n")


def test_texts_from_elsewhere_are_harmless() -> None:
    steering = "a\x1b\x9b\x7f\u202e\u2067b"
    assert terminal_text(steering + "\n\t") == "a\ufffd\ufffd\ufffd\ufffd\ufffdb\n\t"
    assert one_line(steering + "\t.\n") == "a\ufffd\ufffd\ufffd\ufffd\ufffdb\ufffd."
    line = json_line({"text": steering + "é\n"})
    assert line == r'{"text": "a\u001b\u009b\u007f\u202e\u2067bé\n"}'
    assert json.loads(line)["text"] == steering + "é\n"


def test_a_signal_to_end_is_not_forgotten_when_an_answer_fails() -> None:
    with outliving_hangup() as hung_up:
        assert hung_up() is None
        signal.raise_signal(signal.SIGTERM)
        assert hung_up() == signal.SIGTERM
    with pytest.raises(SystemExit) as ended, outliving_hangup():
        signal.raise_signal(signal.SIGHUP)
        raise ZeroDivisionError
    assert ended.value.code == 128 + signal.SIGHUP
    with pytest.raises(ZeroDivisionError), outliving_hangup():
        raise ZeroDivisionError
