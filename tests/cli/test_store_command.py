"""Versions on the command line: added, checked, switched, taken back; updates made and applied."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.layout import DirectoryLayout, read_image
from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.probes import read_limits, read_probe
from edgeslm.bundle.writing import write_bundle
from edgeslm.testing import tiny_gguf

Edgeslm = Callable[..., "subprocess.CompletedProcess[str]"]
ONE = ("--threads", 1)


def said(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pack(edgeslm: Edgeslm, model: Path, output: Path) -> None:
    done = edgeslm("pack", model, "-o", output, "--target", "rpi5-4gb", "--type", "Q8_0")
    assert done.returncode == 0, done.stderr


def test_a_version_is_packed_added_checked_and_run(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path
) -> None:
    packed, store = tmp_path / "packed", ("--store", tmp_path / "store")
    pack(edgeslm, tiny_model, packed)
    layout = DirectoryLayout(packed)
    assert read_probe(layout, read_image(layout)) is not None
    added = said(edgeslm("store", "add", packed, *store, "--activate", *ONE, "--json"))
    assert added["state"]["current"] == added["version"]
    assert added["health"]["healthy"] is True
    assert added["health"]["answers"]["divergence"] == pytest.approx(0, abs=1e-6)
    assert edgeslm("run", store[1], "-p", "hello", "-n", 2, *ONE).returncode == 0
    listed = edgeslm("store", "list", *store).stdout
    assert f"{added['version']}  " in listed
    assert "current" in listed
    checked = edgeslm("store", "check", *store, *ONE)
    assert "same first choice 100%" in checked.stdout
    slow = edgeslm("store", "check", *store, *ONE, "--min-tps", 1e9)
    assert slow.returncode == 1
    assert "too slow" in slow.stderr
    find_model(store[1]).write_bytes(b"")
    damaged = edgeslm("store", "check", *store, *ONE)
    assert damaged.returncode == 2
    assert "mends it: edgeslm store add BUNDLE" in damaged.stderr
    assert "damaged, " in edgeslm("store", "add", packed, *store).stdout
    assert edgeslm("store", "check", *store, *ONE).returncode == 0


def test_an_update_that_answers_otherwise_leaves_the_old_one(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "store")
    good, bad = tmp_path / "good", tmp_path / "bad"
    pack(edgeslm, tiny_model, good)
    layout = DirectoryLayout(good)
    probe = read_probe(layout, read_image(layout))
    other = tiny_gguf(tmp_path / "other.gguf", context_length=512, seed=8)
    write_bundle(bad, Parts(other, probe=probe))
    assert edgeslm("store", "add", good, *store, "--activate", *ONE).returncode == 0
    delta = tmp_path / "update.delta"
    inventory = edgeslm("store", "inventory", *store, "--json")
    (tmp_path / "inventory.json").write_text(inventory.stdout)
    made = said(edgeslm("delta", bad, "--from", "inventory.json", "-o", delta, "--json"))
    assert made["sent_bytes"] == delta.stat().st_size
    failed = edgeslm("store", "apply", delta, *store, "--activate", *ONE)
    assert failed.returncode == 1
    assert "answers otherwise than where it was packed" in failed.stderr
    assert "hint: " in failed.stderr
    shown = edgeslm("store", "list", *store).stdout
    assert "refused" in shown
    again = edgeslm("store", "activate", made["digest"][7:15], *store, *ONE)
    assert again.returncode == 2
    assert "--again" in again.stderr
    forced = ("--again", "--unchecked", "--json")
    state = said(edgeslm("store", "activate", made["digest"], *store, *forced))["state"]
    assert state["previous"] is not None
    back = edgeslm("store", "rollback", *store).stdout
    assert f"current: {state['previous']}" in back
    assert find_model(tmp_path / "store").read_bytes() == find_model(good).read_bytes()
    assert said(edgeslm("store", "collect", *store, "--json"))["versions"] == []


def test_a_speed_that_was_asked_for_goes_along(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    done = edgeslm(
        *("pack", tiny_model, "-o", packed, "--target", "rpi5-4gb", "--min-tps", 7, "--quick"),
        "--no-probe",
    )
    assert done.returncode == 0, done.stderr
    layout = DirectoryLayout(packed)
    image = read_image(layout)
    assert read_limits(layout, image).decode_tokens_per_second == 7
    assert read_probe(layout, image) is None
    store = ("--store", tmp_path / "store")
    added = said(edgeslm("store", "add", packed, *store, "--activate", *ONE, "--json"))
    assert added["health"]["demands"]["tokens_per_second"] == pytest.approx(6.3)
    assert added["health"]["compared"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("store", "list"), "no store"),
        (("store", "rollback"), "no store"),
        (("store", "add", "none"), "none"),
        (("store", "add", "MODEL"), "not a bundle"),
        (("store", "apply", "MODEL"), "not a delta"),
        (("store", "activate", "0123"), "no store"),
        (("delta", "none", "--from", "none", "-o", "x"), "none"),
        (("delta", "MODEL", "--from", "MODEL", "-o", "x"), "not a bundle"),
    ],
)
def test_mistakes_are_told(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    given = [tiny_model if word == "MODEL" else word for word in arguments]
    place = ["--store", tmp_path / "nowhere"] if given[0] == "store" else []
    done = edgeslm(*given, *place)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()
