from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import made_bundles
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.signing import read_private_key
from edgeslm.bundle.store import Store
from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.bundle.writing import write_bundle, write_tar_file
from edgeslm.errors import InvalidBundle, UserError
from edgeslm.flash.carried import Carried, Load, opened
from edgeslm.flash.runtimes import find_runtimes
from edgeslm.flash.service import Service
from edgeslm.flash.tree import Link, Tree
from edgeslm.targets.loading import load_target


def tar_of(packed: Path, tar: Path) -> Path:
    files = sorted(path for path in packed.rglob("*") if path.is_file())
    write_tar_file(
        tar,
        ((str(f.relative_to(packed)), f.stat().st_size, [f.read_bytes()]) for f in files),
    )
    return tar


def tree_of(carried: Carried, runtime: Path, keys: Sequence[Path] = ()) -> Tree:
    brought = find_runtimes(carried.folder, runtime)
    (one,) = brought.listed.runtimes
    return Load(carried, brought, Service(), tuple(keys)).tree(one, Path("/nowhere"))


def test_all_that_a_device_needs(packed: Path, runtime: Path, tmp_path: Path) -> None:
    with opened(packed, tmp_path / "x") as carried:
        tree = tree_of(carried, runtime)
    found = {entry.path: entry for entry in tree.entries}
    digest = carried.digest.removeprefix("sha256:")
    version = f"var/lib/edgeslm/store/versions/{digest[:32]}"

    assert {f"{version}/{path.relative_to(packed)}" for path in packed.rglob("*")} <= set(found)
    state = json.loads(bytes(found["var/lib/edgeslm/store/state.json"].content))  # type: ignore[arg-type]
    assert state["current"] == digest[:32]
    current = found["opt/edgeslm/current"].content
    assert isinstance(current, Link)
    assert f"opt/edgeslm/{current.target}/bin/edgeslm" in found
    assert found[f"opt/edgeslm/{current.target}/bin/edgeslm"].mode == 0o755
    assert found["etc/systemd/system/multi-user.target.wants/edgeslm.service"].content == Link(
        "/etc/systemd/system/edgeslm.service"
    )
    assert all((entry.uid, entry.gid) == (0, 0) for entry in tree.entries)
    others = [entry for entry in tree.entries if not isinstance(entry.content, Link)]
    assert not any(entry.mode & 0o022 for entry in others)
    unit = found["etc/systemd/system/edgeslm.service"].content
    assert b"TRUSTED_KEYS" not in unit  # type: ignore[operator]


def test_a_tar_gives_the_same(packed: Path, runtime: Path, tmp_path: Path) -> None:
    tar = tar_of(packed, tmp_path / "packed.tar")
    with opened(packed, tmp_path / "x") as plain, opened(tar, tmp_path / "x") as unpacked:
        trees = [tree_of(each, runtime) for each in (plain, unpacked)]
        first, second = ([(entry.path, entry.sha256()) for entry in tree.files] for tree in trees)
        assert first == second
    assert list(tmp_path.iterdir()) == [tar]


def test_a_damaged_bundle_is_refused(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    blob = max((copy / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)

    with pytest.raises(InvalidBundle), opened(copy, tmp_path / "x"):
        pass


def test_only_the_signed_where_keys_are_given(packed: Path, runtime: Path, tmp_path: Path) -> None:
    keys = [made_bundles.write_pair(tmp_path / f"{n}.pem", ec.SECP256R1()) for n in "ab"]
    signed = tmp_path / "signed"
    shutil.copytree(packed, signed)
    sign_bundle(signed, read_private_key(keys[0], lambda: ""))
    public = [key.with_suffix(".pub") for key in keys]

    with opened(signed, tmp_path / "x", public[:1]) as carried:
        tree = tree_of(carried, runtime, public[:1])
    found = {entry.path: entry for entry in tree.entries}
    assert found["etc/edgeslm/trusted_keys/a.pub"].content == public[0].read_bytes()
    unit = found["etc/systemd/system/edgeslm.service"].content
    assert b"EDGESLM_TRUSTED_KEYS=/etc/edgeslm/trusted_keys" in unit  # type: ignore[operator]
    for bundle, key in ((signed, public[1]), (packed, public[0])):
        with pytest.raises(UserError), opened(bundle, tmp_path / "x", [key]):
            pass
    with pytest.raises(UserError):
        tree_of(carried, runtime, [keys[0]])


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd here")
def test_systemd_makes_the_account(packed: Path, runtime: Path, tmp_path: Path) -> None:
    with opened(packed, tmp_path / "x") as carried:
        tree = tree_of(carried, runtime)
    root = tmp_path / "root"
    for entry in tree.entries:
        if entry.path.startswith("etc/") and isinstance(entry.content, bytes):
            (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (root / entry.path).write_bytes(entry.content)
    program = ["systemd-sysusers", f"--root={root}"]
    subprocess.run([*program, "edgeslm.conf"], check=True, capture_output=True)

    line = next(line for line in (root / "etc/passwd").read_text().splitlines())
    assert line.startswith("edgeslm:x:")
    assert line.endswith(":/var/lib/edgeslm:/usr/sbin/nologin")
    if os.geteuid() == 0:
        (root / "var/lib").mkdir(parents=True)
        program = ["systemd-tmpfiles", f"--root={root}", "--create", "edgeslm.conf"]
        subprocess.run(program, check=True, capture_output=True)
        group = int(line.split(":")[3])
        for folder in ("", ".cache", ".cache/edgeslm"):
            found = (root / "var/lib/edgeslm" / folder).stat()
            assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, group, 0o1775)
        found = (root / "var/lib/edgeslm/.cache/edgeslm/hashes").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o755)
    checked = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            root / "etc/systemd/system/edgeslm-account.service",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "edgeslm-account" not in checked.stderr, checked.stderr


def test_the_store_is_one_that_the_devices_commands_work_with(
    packed: Path, runtime: Path, tmp_path: Path
) -> None:
    with opened(packed, tmp_path / "x") as carried:
        put(tree_of(carried, runtime), tmp_path / "root")
    store = Store(tmp_path / "root/var/lib/edgeslm/store")

    (version,) = store.versions()
    assert version.current
    assert (version.digest, version.name) == (carried.digest, store.state.current)
    assert verify_bundle(store.folder(store.find(None))).contents == carried.contents
    model = find_model(store.root)
    assert model.read_bytes() == find_model(packed).read_bytes()
    write_bundle(tmp_path / "next", Parts(model))
    added = store.add(tmp_path / "next")
    assert added.shared_bytes >= model.stat().st_size
    assert store.activate(added.version).previous == version.name
    assert store.rollback().current == version.name


def put(tree: Tree, root: Path) -> None:
    """Make files of a tree, but for links."""
    for entry in tree.entries:
        target = root / entry.path
        if entry.content is None:
            target.mkdir(parents=True)
        elif not isinstance(entry.content, Link):
            data = entry.content
            target.write_bytes(data if isinstance(data, bytes) else data.read_bytes())


def test_what_the_board_has_for_it(packed: Path, tiny_model: Path, tmp_path: Path) -> None:
    with opened(packed, tmp_path / "x") as carried:
        assert carried.free_bytes == load_target("rpi5-4gb").memory.free_bytes
        assert "asimddp" in (carried.features("aarch64") or ())
        assert carried.features("x86_64") is None
    write_bundle(tmp_path / "plain", Parts(tiny_model))
    with opened(tmp_path / "plain", tmp_path / "x") as carried:
        assert carried.free_bytes is carried.board is carried.features("aarch64") is None
