"""What runs on the board, here: no ssh between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.layout import DirectoryLayout, read_image
from edgeslm.bundle.store import Store
from edgeslm.flash.ssh import agent

Ended = subprocess.CompletedProcess[str]
_SYSTEMCTL = '#!/bin/sh\necho "$*" >>"$TOLD"\n'


def act(action: str, told: Path | None = None, **given: Any) -> Ended:
    """Have an action done by a Python of its own; its systemctl only writes down what it is told.

    Args:
        action: Which.
        told: The file for that.
        given: Beside the lock.
    """
    environment = dict(os.environ)
    if told is not None:
        programs = told.parent / "bin"
        programs.mkdir()
        (programs / "systemctl").write_text(_SYSTEMCTL)
        (programs / "systemctl").chmod(0o755)
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "TOLD": str(told)}
    text = Path(agent.__file__).read_text()
    words = [sys.executable, "-I", "-S", "-c", text, action, json.dumps(given)]
    return subprocess.run(words, capture_output=True, text=True, env=environment)


def test_the_store_takes_over_what_arrived(tmp_path: Path, packed: Path) -> None:
    received, store = tmp_path / "received", tmp_path / "store"
    image = read_image(DirectoryLayout(packed))
    (received / "blobs").mkdir(parents=True)
    for blob in image.blobs.values():
        (received / "blobs" / blob.sha256).write_bytes((packed / blob.name).read_bytes())
    (received / "blobs" / "1").write_bytes((packed / "oci-layout").read_bytes())
    (received / "blobs" / "2").write_bytes((packed / "index.json").read_bytes())
    version = image.manifest.sha256[:32]
    common = {
        "blobs": [blob.sha256 for blob in image.blobs.values()],
        "received": str(received / "blobs"),
        "versions": str(store / "versions"),
        "lock": str(tmp_path / "lock"),
    }
    files = {"oci-layout": "1", "index.json": "2"}
    agent.place({**common, "to": str(received / "bundle"), "files": files, "copied": True})
    incoming = str(store / "incoming" / version)
    agent.place({**common, "to": incoming, "files": {}, "copied": False})

    Store(store).add(received / "bundle")

    model = image.model.blob
    kept = Store(store).folder(version) / model.name
    assert kept.stat().st_ino == (received / "blobs" / model.sha256).stat().st_ino


@pytest.mark.parametrize(("program", "code"), [("true", 0), ("false", 1), ("/no/such", 127)])
@pytest.mark.parametrize("scope", [[], ["--user"]])
def test_the_service_starts_again_however_it_ends(
    tmp_path: Path, program: str, code: int, scope: list[str]
) -> None:
    told = tmp_path / "told"
    command = ["sh", "-c", f'echo run >>"$TOLD"; exec {program}'] if code != 127 else [program]
    given = {"command": command, "environment": {}, "held": True, "lock": str(tmp_path / "lock")}
    assert act("run", told, **given, paused=scope).returncode == code
    words = " ".join([*scope, ""])
    ran = [] if code == 127 else ["run"]
    expected = [f"{words}stop edgeslm.service", *ran, f"{words}start edgeslm.service"]
    assert told.read_text().splitlines() == expected


def test_the_service_goes_on(tmp_path: Path) -> None:
    told = tmp_path / "told"
    given = {"command": ["true"], "environment": {}, "held": True, "lock": str(tmp_path / "lock")}
    assert act("run", told, **given, paused=None).returncode == 0
    assert not told.exists()


def test_only_keys_are_keys(tmp_path: Path) -> None:
    keys = tmp_path / "etc/edgeslm/trusted_keys"
    keys.mkdir(parents=True)
    for name in ("a.pub", "b.pem", ".c.pub", "a.pub.edgeslm-new"):
        (keys / name).write_text("x")
    done = act("look", rights="root", prefix=str(tmp_path))
    assert sorted(json.loads(done.stdout.splitlines()[-1])["keys"]) == ["a.pub", "b.pem"]


def test_what_others_may_not_enter(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 1:
            assert agent._closed(inner / "not there yet") == str(folder)
            break
    (tmp_path / "a").chmod(0o700)
    assert agent._closed(inner) == str(tmp_path / "a")


def test_what_is_not_roots_is_not_used(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    home = tmp_path / "home"
    (home / "store").mkdir(parents=True)
    given: dict[str, Any] = {"home": str(home), "account": "root", "lock": str(tmp_path / "lock")}
    given |= {"shared": [".cache", "edgeslm"], "kept": "hashes"}
    hashes = home / ".cache/edgeslm/hashes"
    hashes.mkdir(parents=True)
    for name, user in (("forged", 1234), ("own", 0)):
        (hashes / name).touch()
        os.chown(hashes / name, user, user)
    os.chown(home / ".cache", 1234, 1234)
    assert act("own", **given, roots=["store", "received"]).returncode == 0
    for folder in (home, home / ".cache", home / ".cache/edgeslm"):
        assert (folder.stat().st_mode & 0o7777, folder.stat().st_uid) == (0o1775, 0)
    assert hashes.stat().st_mode & 0o7777 == 0o755
    assert [path.name for path in hashes.iterdir()] == ["own"]
    (home / "received").symlink_to("/etc")
    os.chown(home / "received", 1234, 1234, follow_symlinks=False)
    done = act("own", **given, roots=["store", "received"])
    assert done.returncode == 1
    assert "received is not root's" in done.stderr
    (home / "received").unlink()
    (home / ".cache").rename(home / "elsewhere")
    (home / ".cache").symlink_to(tmp_path)
    assert act("own", **given, roots=[]).returncode == 1
    assert tmp_path.stat().st_mode & 0o7777 != 0o1775
