"""Bundles on the command line: signed, checked, unpacked, run; mistakes are told, not traced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.bundle.model_path import find_model
from edgeslm.testing import tiny_adapter

sys.path.append(str(Path(__file__).parents[1] / "bundle"))
from made_bundles import ec, write_pair

Edgeslm = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = ("-p", "hello", "-n", 2, "--temperature", 0, "--threads", 1)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    key = write_pair(tmp_path_factory.mktemp("keys") / "key.pem", ec.SECP256R1())
    return key, key.with_suffix(".pub")


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "hint: " in done.stderr
    for word in words:
        assert word in done.stderr


def test_sign_verify_and_be_refused(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    packed = tmp_path / "packed"
    done = edgeslm("pack", tiny_model, "-o", packed, "--target", "rpi5-4gb", "--type", "Q8_0")
    assert "digest: sha256:" in done.stdout
    refused(edgeslm("verify", packed, "--key", public), "not signed")
    assert "not signed" in edgeslm("verify", packed).stdout
    data = json.loads(edgeslm("sign", packed, "--key", private, "--json").stdout)
    assert data["digest"] in done.stdout
    assert "was not checked" in edgeslm("verify", packed).stdout
    checked = json.loads(edgeslm("verify", packed, "--key", public, "--json").stdout)
    assert (checked["valid"], checked["signed"]) == (True, True)
    assert checked["contents"]["digest"] == data["digest"]
    refused(edgeslm("sign", packed, "--key", public), "not a private key")
    refused(edgeslm("verify", packed, "--key", private), "private key")
    model = find_model(packed)
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    refused(edgeslm("verify", packed, "--key", public), "changed")


def test_a_signed_tar_is_unpacked_and_run(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    tar, packed = tmp_path / "helper.tar", tmp_path / "helper"
    given = ("--target", "rpi5-4gb", "--type", "Q8_0", "--key", private)
    assert edgeslm("pack", tiny_model, "-o", tar, *given).returncode == 0
    for verb in ("run", "inspect", "fit"):
        more = RUN if verb == "run" else ()
        refused(edgeslm(verb, tar, *more), f"edgeslm unpack {tar} -o {packed}")
    assert edgeslm("unpack", tar, "-o", packed).returncode == 0
    assert edgeslm("verify", packed, "--key", public).returncode == 0
    assert edgeslm("run", packed, *RUN).returncode == 0
    refused(edgeslm("unpack", packed, "-o", tmp_path / "x"), "--files")
    assert edgeslm("unpack", packed, "-o", tmp_path / "files", "--files").returncode == 0
    assert edgeslm("run", tmp_path / "files" / "model.gguf", *RUN).returncode == 0


def test_a_machine_that_trusts_only_some(
    edgeslm: Edgeslm,
    tiny_model: Path,
    tmp_path: Path,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private, public = keys
    packed = tmp_path / "packed"
    given = ("--target", "rpi5-4gb", "--type", "Q8_0")
    assert edgeslm("pack", tiny_model, "-o", packed, *given).returncode == 0
    adapter = tiny_adapter(tmp_path / "poet.gguf", tiny_model)
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(public))
    for verb in (("run", *RUN), ("chat",), ("serve",), ("profile",), ("tune", "--quick")):
        refused(edgeslm(verb[0], packed, *verb[1:]), "not signed")
        refused(edgeslm(verb[0], tiny_model, *verb[1:]), "not a signed bundle")
    assert edgeslm("inspect", tiny_model).returncode == 0
    assert edgeslm("sign", packed, "--key", private).returncode == 0
    assert edgeslm("run", packed, *RUN).returncode == 0
    refused(edgeslm("run", packed, *RUN, "--adapter", adapter), "poet.gguf: not a signed bundle")
    refused(edgeslm("serve", packed, "--adapter", f"poet={adapter}"), "not a signed bundle")
    refused(edgeslm("run", packed, *RUN, "--draft", tiny_model), "not a signed bundle")
    monkeypatch.setenv("EDGESLM_TRUSTED_KEYS", str(tmp_path / "none.pub"))
    refused(edgeslm("run", packed, *RUN), "none.pub")


def test_an_adapter_in_the_bundle_has_a_name(
    edgeslm: Edgeslm, tiny_model: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    adapter = tiny_adapter(tmp_path / "p.gguf", tiny_model, alpha=200.0)
    given = ("--target", "rpi5-4gb", "--type", "Q8_0", "--adapter", f"poet={adapter}")
    assert edgeslm("pack", tiny_model, "-o", packed, *given).returncode == 0
    adapter.unlink()
    longer = ("-p", "hello", "-n", 12, "--temperature", 0, "--threads", 1)
    plain, poet = (
        edgeslm("run", packed, *longer),
        edgeslm("run", packed, *longer, "--adapter", "poet"),
    )
    assert (plain.returncode, poet.returncode) == (0, 0)
    assert plain.stdout != poet.stdout
    refused(edgeslm("run", packed, *RUN, "--adapter", "clerk"), "clerk")
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edgeslm",
            "serve",
            packed,
            "--port",
            "0",
            "--threads",
            "1",
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert json.loads(server.stdout.readline())["models"] == ["packed", "poet"]
        server.terminate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--adapter", "poet"), ["NAME=FILE"]),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--adapter", "a=no.gguf"), ["no.gguf"]),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--key", "no.pem"), ["no.pem"]),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--license", "no.txt"), ["no.txt"]),
        (("pack", "MODEL", "-o", "o", "--target", "rpi5", "--measured", "MODEL"), ["measurement"]),
        (
            ("pack", "MODEL", "-o", "o", "--target", "rpi5", "--ladder", "8", "--license", "MODEL"),
            ["excludes"],
        ),
        (("verify", "MODEL"), ["not a bundle"]),
        (("verify", "none"), ["none"]),
        (("sign", "MODEL", "--key", "no.pem"), ["no.pem"]),
        (("unpack", "MODEL", "-o", "o"), ["not a bundle"]),
        (("push", "none", "helper:1"), ["names no registry"]),
        (("pull", "helper:1", "-o", "o"), ["names no registry"]),
        (("pull", "127.0.0.1:1/helper:1", "-o", "o.tar"), ["into a directory"]),
    ],
)
def test_mistakes_are_told(
    edgeslm: Edgeslm,
    tiny_model: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    given = [tiny_model if word == "MODEL" else word for word in arguments]
    refused(edgeslm(*given), *words)
    assert not (tmp_path / "o").exists()
