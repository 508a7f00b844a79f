"""`edgeslm profile` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]
SHORT = ("-p", 16, "-n", 4, "-r", 2, "--threads", 1)


@pytest.fixture
def neighbour() -> Iterator[None]:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    busy.kill()
    busy.wait()


def test_several_depths(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("profile", tiny_model, *SHORT, "--depth", "0, 32", "--json")
    data = json.loads(done.stdout)
    assert [each["depth"] for each in data["depths"]] == [0, 32]
    assert data["prefill"] == data["depths"][0]["prefill"]
    assert data["settings"]["depths"] == [0, 32]
    text = edgeslm("profile", tiny_model, *SHORT, "--depth", "0,32").stdout
    assert "decode at 0 " in text
    assert "decode at 32 " in text


@pytest.mark.usefixtures("neighbour")
def test_a_busy_neighbour_taints_loudly(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("profile", tiny_model, *SHORT)
    assert done.returncode == 0
    assert "TAINTED" in done.stdout
    assert "other programs took the time of" in done.stdout
    assert "warning: tainted: other programs" in done.stderr


@pytest.mark.usefixtures("neighbour")
def test_strict_fails_after_it_has_printed(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("profile", tiny_model, *SHORT, "--strict", "--json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert data["tainted"] is True
    assert data["taints"]
    assert "error: something spoilt these figures" in done.stderr
    assert "hint:" in done.stderr


def test_what_lasts(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("profile", tiny_model, *SHORT, "--sustained", 3)
    assert done.returncode == 0, done.stderr
    assert "of the peak" in done.stdout


def test_a_memory_limit(edgeslm: Edgeslm, tiny_model: Path) -> None:
    done = edgeslm("profile", tiny_model, *SHORT, "--memory-limit", "512M", "--json")
    if "no control group" in done.stderr:
        pytest.skip(done.stderr)
    assert json.loads(done.stdout)["memory"]["limit"]["verdict"] == "fits"
    text = edgeslm("profile", tiny_model, *SHORT, "--memory-limit", "512M").stdout
    assert "With 512 MB: fits" in text


def test_no_meter_is_asked_for(edgeslm: Edgeslm, tiny_model: Path) -> None:
    energy = json.loads(edgeslm("profile", tiny_model, *SHORT, "--meter", "none", "--json").stdout)[
        "energy"
    ]
    assert (energy["meter"], energy["notes"]) == (None, ["none: as asked for"])
    assert energy["decode_joules_per_token"]["value"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--depth", "some"), "not depths"),
        (("--depth", "0,,4"), "not depths"),
        (("--depth", "-1"), "not depths"),
        (("--depth", "8,8"), "each once"),
        (("--depth", "0", "--context", "4"), "too short"),
        (("--idle", "-1"), "idle baseline"),
        (("--idle", "nan"), "idle baseline"),
        (("--budget", "0"), "0 budget seconds"),
        (("--sustained", "inf"), "inf sustained seconds"),
        (("--sustained", "1"), "1 sustained seconds"),
        (("--meter", "ampere"), "no meter is called"),
        (("--memory-limit", "tiny"), "not a size"),
        (("--memory-limit", "5"), "a memory limit of 5 B"),
        (("--target", "rpi-zero-2w", "--memory-limit", "100M"), "--memory-limit measures"),
        (("--target", "rpi-zero-2w", "--sustained", "5"), "--sustained measures"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(
    edgeslm: Edgeslm, tiny_model: Path, options: tuple[str, ...], words: str
) -> None:
    done = edgeslm("profile", tiny_model, *SHORT, *options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert words in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
