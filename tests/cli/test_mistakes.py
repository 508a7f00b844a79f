"""What users get wrong: one line of cause, one of hint, a code, and nothing half-written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import main
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _written_bytes(folder: Path) -> int:
    count = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # it was only tried whether there can be one
            count += path.stat().st_size
    return count


def _assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert lines[-1].startswith("hint: "), done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "MODEL", "-p", "x", "--temperature", "-1"), ["temperature"]),
        (("run", "MODEL", "-p", "x", "--top-p", "0"), ["top-p"]),
        (("run", "MODEL", "-p", "x", "--kv-type", "Q4_K"), ["Q4_K", "Q8_0"]),
        (("run", "MODEL", "-p", "x", "--threads", "0"), ["threads"]),
        (("run", "MODEL", "-p", "x", "--dry", "-1"), ["dry"]),
        (("run", "MODEL", "-p", "x", "--xtc", "2"), ["xtc"]),
        (("run", "MODEL", "-p", "x", "--presence-penalty", "101"), ["presence-penalty"]),
        (("run", "MODEL", "-p", "x", "--grammar", "no.gbnf"), ["no.gbnf"]),
        (("run", "MODEL", "-p", "x", "--grammar", "MODEL"), ["UTF-8"]),
        (("run", "MODEL", "-p", "x", "--grammar", "TEXT"), ["grammar", "GBNF"]),
        (("run", "MODEL", "-p", "x", "--json-schema", "TEXT"), ["not valid JSON"]),
        (
            ("run", "MODEL", "-p", "x", "--json-schema", "TEXT", "--grammar", "TEXT"),
            ["--json-schema", "--grammar"],
        ),
        (("run", "MODEL", "-p", "x", "--context", "0"), ["length"]),
        (("run", "MODEL", "-p", "x", "-n", "0"), ["tokens"]),
        (("run", "MODEL", "-p", "x", "--raw", "--system", "y"), ["--raw"]),
        (("run", "MODEL", "-p", "word " * 3000), ["context"]),
        (("run", "MODEL", "-p", ""), ["empty"]),
        (("run", "MODEL", "-p", "x", "--threads", "100000"), ["threads", "512"]),
        (("run", "MODEL", "-p", "x", "--context", "4294967297"), ["length"]),
        (("run", "a" * 300, "-p", "x"), ["aaa"]),
        (("inspect", "a" * 300), ["aaa"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--size", "9" * 400), ["size"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--type", "Q9_Z"), ["Q9_Z"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--bits", "99"), ["99"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--bits", "1.1"), ["1.1", "--bits 4."]),
        (("quantize", "MODEL", "-o", "o.gguf", "--size", "12X"), ["12X"]),
        (("quantize", "MODEL", "-o", "o.gguf"), ["--type"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--bits", "5", "--type", "Q8_0"), ["--bits"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--bits", "8", "--size", "1k"), ["--size"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--bits", "5", "--imatrix", "x"), ["--type"]),
        (("quantize", "MODEL", "-o", "o.gguf", "--type", "Q4_0", "--imatrix", "x"), ["x: no such"]),
        (
            ("quantize", "MODEL", "-o", "o.gguf", "--type", "Q4_0", "--imatrix", "TEXT"),
            ["not an importance matrix"],
        ),
        (("quantize", "MODEL", "-o", "o", "--min-tps", "5"), ["--min-tps", "--target"]),
        (
            ("quantize", "MODEL", "-o", "o", "--max-joules-per-token", "1"),
            ["--max-joules-per-token", "--target"],
        ),
        (
            ("quantize", "MODEL", "-o", "o", "--target", "rpi9", "--min-tps", "5"),
            ["rpi9", "rpi"],
        ),
        (("quantize", "MODEL", "-o", "o", "--bits", "5", "--type", "Q8_0"), ["--type", "--bits"]),
        (("quantize", "MODEL", "-o", "o", "--bits", "5", "--recipe", "x"), ["--recipe"]),
        (("quantize", "MODEL", "-o", "o", "--recipe", "nothing.toml"), ["nothing.toml"]),
        (("quantize", "MODEL", "-o", "o", "--recipe", "NONE"), ["none.txt", "schema"]),
        (("quantize", "MODEL", "-o", "o", "--ram", "1k"), ["RAM"]),
        (("quantize", "MODEL", "-o", "o", "--bits", "8", "--calibration", "no.txt"), ["no.txt"]),
        (("quantize", "MODEL", "-o", "o", "--bits", "8", "--calibration", "NONE"), ["too few"]),
        (("quantize", "MODEL", "-o", "o", "--bits", "8", "--calibration-tokens", "0"), ["tokens"]),
        (
            ("quantize", "MODEL", "-o", "o", "--bits", "8", "--quick", "--calibration", "TEXT"),
            ["--quick", "--calibration"],
        ),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", "4,many"), ["many"]),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", ""), ["bits per weight"]),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", "0.5,6"), ["0.5"]),
        (
            ("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", "1.1,1.2", "--quick"),
            ["too small", "--bits"],
        ),
        (
            ("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", "5", "--bits", "6"),
            ["--ladder"],
        ),
        (
            ("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", "8", "--text", "no.txt"),
            ["no.txt"],
        ),
        (
            ("pack", "MODEL", "-o", "o", "--target", "rpi5", "--bits", "8", "--text", "TEXT"),
            ["--ladder"],
        ),
        (("pack", "MODEL", "-o", "o", "--target", "rpi9", "--ladder", "8"), ["rpi9"]),
        (("inspect",), ["--types"]),
        (("inspect", "--tensors"), ["no file"]),
        (("pack", "MODEL", "-o", "out", "--target", "rpi9"), ["rpi9", "rpi"]),
        (("profile", "MODEL", "--target", "nowhere"), ["nowhere"]),
        (("profile", "MODEL", "--repeats", "0"), ["repeats"]),
        (("profile", "MODEL", "--context", "8"), ["too short"]),
        (("targets", "show", "rpi55"), ["rpi5"]),
        (("inspect", "nothing.gguf"), ["nothing.gguf"]),
        (("run", "nothing.gguf", "-p", "x"), ["nothing.gguf"]),
        (("verify", "nothing"), ["nothing"]),
        (("convert", "nothing", "-o", "o.gguf"), ["nothing"]),
        (("convert", "EMPTY", "-o", "o.gguf"), ["config.json"]),
        (("convert", "MODEL", "-o", "o.gguf"), ["not a checkpoint"]),
        (("convert", "EMPTY", "-o", "o.gguf", "--type", "F8"), ["F8"]),
        (("run", "EMPTY", "-p", "x"), ["director"]),
        (("chat", "EMPTY"), ["director"]),
        (("inspect", "TEXT"), ["GGUF"]),
        (("run", "TEXT", "-p", "x"), ["GGUF"]),
    ],
)
def test_mistakes_get_a_cause_a_hint_and_code_2(
    edgeslm: Edgeslm,
    tiny_model: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("Dear reader, this is a letter.\n" * 10)
    empty = tmp_path / "empty"
    empty.mkdir()
    none = tmp_path / "none.txt"
    none.touch()
    paths = {"MODEL": tiny_model, "TEXT": text, "EMPTY": empty, "NONE": none}
    done = edgeslm(*(paths.get(argument, argument) for argument in arguments))
    _assert_refused(done, 2, *words)
    assert _names(tmp_path) == ["empty", "none.txt", "text.gguf"]


@pytest.mark.parametrize(
    "arguments", [("run", "--frobnicate"), ("nonsense",), ("run",), ("run", "x", "-n", "many")]
)
def test_words_the_command_line_does_not_know(edgeslm: Edgeslm, arguments: tuple[str, ...]) -> None:
    done = edgeslm(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage: " in done.stderr


def test_an_architecture_that_is_not_supported(edgeslm: Edgeslm, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["NeverHeardOfForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "tokenizer.json").write_text("{}")
    done = edgeslm("convert", folder, "-o", tmp_path / "out.gguf")
    _assert_refused(done, 2, "NeverHeardOfForCausalLM")
    assert _names(tmp_path) == ["checkpoint"]


WRITERS = [
    ("quantize", "MODEL", "-o", "OUT", "--type", "Q8_0"),
    ("quantize", "MODEL", "-o", "OUT", "--bits", "9", "--calibration-tokens", "512"),
    ("pack", "MODEL", "-o", "OUT", "--target", "rpi4", "--type", "Q8_0"),
]


@pytest.mark.parametrize("arguments", WRITERS, ids=lambda words: " ".join(words[::4]))
@pytest.mark.parametrize("place", ["missing/out", "file/out", "/proc/out"])
def test_places_that_cannot_be_written(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...], place: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    stand_ins = {"MODEL": str(tiny_model), "OUT": place}
    done = edgeslm(*(stand_ins.get(argument, argument) for argument in arguments))
    _assert_refused(done, 1, f"cannot write {place}")
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("arguments", WRITERS, ids=lambda words: " ".join(words[::4]))
def test_a_full_disk_leaves_nothing_behind(
    edgeslm: Edgeslm, tmp_path: Path, small_disk: Path, arguments: tuple[str, ...]
) -> None:
    model = tiny_gguf(tmp_path / "model.gguf", layers=8, width=128, feed_forward=256)
    stand_ins = {"MODEL": str(model), "OUT": str(small_disk / "out")}
    done = edgeslm(*(stand_ins.get(argument, argument) for argument in arguments))
    _assert_refused(done, 1, "Free some space")
    assert _names(small_disk) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that takes seconds to quantize."""
    path = tmp_path_factory.mktemp("large") / "model.gguf"
    yield tiny_gguf(path, layers=40, width=512, heads=8, feed_forward=2048)
    path.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_quantization_leaves_nothing_behind(
    tmp_path: Path, large: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgeslm", "quantize", large, "-o", out / "o.gguf"),
            *("--type", "Q4_K_M", "--threads", "1"),
        ],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not _written_bytes(out):
        assert time.monotonic() < deadline, "it never started to write"
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (129, 130, 143)
    assert b"Traceback" not in errors
    assert _names(out) == []
    shutil.rmtree(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_native_code_runs_is_not_lost(
    tiny_model: Path, number: signal.Signals
) -> None:
    for delay in (0.25, 0.4, 0.55, 0.7):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "edgeslm", "run", tiny_model, "-p", "hello"),
                *("--temperature", "0", "--threads", "1", "--context", "100000"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        time.sleep(delay)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (130, 143, -number), (delay, errors)
        assert b"Exception ignored" not in errors


def test_a_signal_while_python_compiles_takes_effect_afterwards() -> None:
    """There an exception can get lost; the code object of this frame claims to be such a place."""
    source = "def compiling(): yield sys._getframe()"
    names: dict[str, Any] = {"sys": sys}
    exec(compile(source, "<frozen importlib._bootstrap>", "exec"), names)
    frame = next(names["compiling"]())
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, main._terminate)
    try:
        main._terminate(signal.SIGTERM, frame)
        with pytest.raises(SystemExit) as caught:
            time.sleep(10)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert caught.value.code == 143


def test_output_that_cannot_be_printed(tiny_model: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    command = f"{sys.executable} -m edgeslm inspect {tiny_model} --tensors > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot print: No space left" in done.stderr


def test_a_terminal_that_knows_few_characters(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "m.gguf", seed=3)
    done = subprocess.run(
        [sys.executable, "-m", "edgeslm", "run", model, "-p", "x", "-n", "20", "-t", "1"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_piped_chat_ends_with_the_error(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("chat", tiny_model, "--context", 256, stdin="x" * 3000 + "\n")
    _assert_refused(done, 2, "context")
    done = edgeslm("chat", tiny_model, "--json", stdin="/nonsense\n")
    _assert_refused(done, 2, "/nonsense")


@pytest.mark.parametrize("context", [20, 100, 300, 700])
def test_any_context_length_is_safe(edgeslm: Edgeslm, tiny_model: Path, context: int) -> None:
    options = ("-n", 2, "-t", 1, "--context", context, "--raw")
    done = edgeslm("run", tiny_model, "-p", "Q" * (context - 10), *options)
    assert done.returncode == 0, done.stderr


def test_text_of_a_file_cannot_steer_the_terminal(edgeslm: Edgeslm, tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "m.gguf")
    data = model.read_bytes()
    at = data.index(b"general.name") + len(b"general.name") + 4 + 8
    model.write_bytes(data[:at] + b"\x1b[2J\n" + data[at + 5 :])
    done = edgeslm("inspect", model)
    assert "\x1b" not in done.stdout
    assert sum(line.startswith("name") for line in done.stdout.splitlines()) == 1


def test_a_model_without_a_template_says_so(edgeslm: Edgeslm, tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "m.gguf")
    model.write_bytes(
        model.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_nothing_")
    )
    done = edgeslm("run", model, "-p", "x", "-n", 2)
    assert done.returncode == 0
    assert "warning: this model has no chat template" in done.stderr
    _assert_refused(edgeslm("run", model, "-p", "x", "--system", "y"), 2, "no chat template")
    _assert_refused(edgeslm("chat", model), 2, "no chat template")
