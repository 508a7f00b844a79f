"""From a model to a board that answers, on emulated boards."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_boards import (
    MARKS,
    MOST_SECONDS,
    copied,
    get,
    kernel_of,
    make_card,
    pack,
    running,
    virt,
    wait_for,
)

pytestmark = MARKS


@pytest.fixture(scope="module")
def card(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A card with Debian 13 and a model in it. Never write to it."""
    folder = tmp_path_factory.mktemp("board")
    yield card_in(folder, tiny_model, "trixie")
    shutil.rmtree(folder)  # gigabytes


def card_in(folder: Path, tiny_model: Path, suite: str) -> Path:
    """A card in a folder; the model is EDGESLM_SMOLLM2_GGUF, or a tiny one."""
    model = os.environ.get("EDGESLM_SMOLLM2_GGUF") or tiny_model
    packed = pack(Path(model), folder / "packed", suite=suite)
    make_card(packed, folder / "board.img", "--hostname", "emulated", suite=suite)
    return folder / "board.img"


def asked(words: list[str], folder: Path) -> str:
    """Starts a board and asks it.

    Returns:
        A sentence on how long it took, and what the model said.
    """
    began = time.monotonic()
    with running(words, folder, 8080) as (tail, (port,)):
        where = f"http://127.0.0.1:{port}"
        up = wait_for(lambda: get(f"{where}/health"), tail)
        question = [{"role": "user", "content": "What is the capital of France?"}]
        wanted = {"messages": question, "max_tokens": 8, "temperature": 0}
        said = get(f"{where}/v1/chat/completions", wanted, timeout=MOST_SECONDS)
        assert said is not None, tail()
        wanted = {"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}
        firm = get(f"{where}/v1/completions", wanted, timeout=MOST_SECONDS)
        assert firm is not None, tail()

    document = json.loads(said)
    answer = document["choices"][0]["message"]["content"]
    assert document["usage"]["completion_tokens"] > 0
    if "EDGESLM_SMOLLM2_GGUF" in os.environ:  # its answer to a question hangs by less than rounding
        assert "Paris" in json.loads(firm)["choices"][0]["text"]
    seconds = time.monotonic() - began
    return f"serves after {up:.0f} s, answered after {seconds:.0f} s: {answer!r}"


def test_a_board_made_from_packages_answers(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = asked(virt(card, tmp_path), tmp_path)
    with capsys.disabled():
        print(f"\nvirt: {said}")


@pytest.mark.slow
def test_a_raspberry_pi_3_started_from_such_a_card_answers(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own firmware, which QEMU lacks, would load the same kernel and device tree."""
    (tree,) = copied(card, tmp_path, "dtb/broadcom/bcm2837-rpi-3-b.dtb")
    words = ["-M", "raspi3b", "-dtb", tree, *kernel_of(card, tmp_path)]
    words += ["-serial", "null", "-serial", "stdio"]  # the second is what the device tree names
    words += ["-drive", f"file={card},format=raw,if=sd,snapshot=on"]
    words += ["-device", "usb-net,netdev=net"]
    said = asked(words, tmp_path)
    with capsys.disabled():
        print(f"\nraspi3b: {said}")


@pytest.mark.slow
def test_a_board_with_the_debian_before_answers(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = card_in(tmp_path, tiny_model, "bookworm")
    try:
        said = asked(virt(card, tmp_path), tmp_path)
    finally:
        card.unlink()
    with capsys.disabled():
        print(f"\nvirt, Debian 12: {said}")
