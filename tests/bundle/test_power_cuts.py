"""A store after power cuts and kills: a complete current version, and the next command works.

Small models, several commands: the first version is added and switched to, then a second one as a
bundle or as a delta, then a rollback, a third, and what is old is removed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from disks import replayed

from edgeslm.bundle import durable
from edgeslm.bundle.delta_applying import apply_delta
from edgeslm.bundle.delta_inventory import inventory_of
from edgeslm.bundle.delta_making import make_delta
from edgeslm.bundle.durable import Operation
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.store import Store
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.testing import tiny_gguf

CUTS_A_WAY = 30
KILLS_A_WAY = 15
MANY_CUTS = 300


@dataclass(frozen=True)
class Scene:
    """Three bundles, a delta from each to the next, a store with the first as current."""

    bundles: tuple[Path, ...]
    names: tuple[str, ...]
    deltas: tuple[Path, ...]
    store: Path


@pytest.fixture(autouse=True)
def _nothing_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync is good for is told by the model of a disk; the real one would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    bundles = []
    for number in range(3):
        model = tiny_gguf(
            folder / f"{number}.gguf", layers=1, width=16, feed_forward=16, seed=number // 2,
            context_length=128 + number,
        )  # fmt: skip
        write_bundle(folder / f"packed-{number}", Parts(model))
        bundles.append(folder / f"packed-{number}")
    deltas = [folder / "01.delta", folder / "12.delta"]
    for old, new, delta in zip(bundles, bundles[1:], deltas, strict=False):
        make_delta(new, inventory_of(old), delta)
    store = Store(folder / "store")
    store.activate(store.add(bundles[0]).version)
    names = tuple(str(verify_bundle(each).contents.digest)[:32] for each in bundles)
    return Scene(tuple(bundles), names, tuple(deltas), store.root)


def use_bundles(store: Store, scene: Scene) -> None:
    """A device's life."""
    names = scene.names
    store.add(scene.bundles[1])
    store.activate(names[1])
    store.rollback()
    store.add(scene.bundles[2])
    store.activate(names[2])
    store.collect()


def use_deltas(store: Store, scene: Scene) -> None:
    """The same with deltas."""
    names = scene.names
    apply_delta(store, scene.deltas[0])
    store.activate(names[1])
    apply_delta(store, scene.deltas[1])
    store.activate(names[2])
    store.collect()


Way = Callable[[Store, Scene], None]
WAYS = (use_bundles, use_deltas)


def record(root: Path, scene: Scene, way: Way) -> list[Operation]:
    shutil.copytree(scene.store, root, symlinks=True)
    operations: list[Operation] = []
    with durable.observed(operations.append):
        way(Store(root), scene)
    return operations


def assert_whole(store: Store, scene: Scene) -> None:
    """What is there is right: current and previous byte for byte, and no version is incomplete."""
    expected = dict(zip(scene.names, scene.bundles, strict=True))
    state = store.state
    assert state.current in expected
    assert state.previous is None or state.previous in expected
    there = {version.name for version in store.versions()}
    assert state.current in there
    assert state.previous is None or state.previous in there
    for name in there:
        wanted, found = (
            {
                path.relative_to(place): path.read_bytes()
                for path in place.rglob("*")
                if path.is_file()
            }
            for place in (expected[name], store.folder(name))
        )
        assert found == wanted, name


def assert_goes_on(store: Store, scene: Scene, way: Way) -> None:
    """The next commands work."""
    way(store, scene)
    assert_whole(store, scene)
    assert store.state.current == scene.names[2]
    assert not list((store.root / "incoming").iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_the_power_goes_at_any_moment(scene: Scene, tmp_path: Path, way: Way) -> None:
    cut_power(scene, tmp_path, way, CUTS_A_WAY)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_power_goes_300_times(scene: Scene, tmp_path: Path, way: Way) -> None:
    cut_power(scene, tmp_path, way, MANY_CUTS)


def cut_power(scene: Scene, tmp_path: Path, way: Way, cuts: int) -> None:
    root = tmp_path / "store"
    operations = record(root, scene, way)
    for number in range(cuts):
        seed = random.Random(number)
        end = seed.randrange(len(operations) + 1)
        disk = replayed(root, scene.store, operations[:end])
        after = tmp_path / f"after-{number}"
        disk.after_a_cut(seed, after)
        assert_whole(Store(after), scene)
        assert_goes_on(Store(after), scene, way)
        shutil.rmtree(after)


class Killed(BaseException):
    """A process ends here."""


def test_the_power_goes_after_a_kill_and_another_command(scene: Scene, tmp_path: Path) -> None:
    """What a killed command had done was not synced: no later one may count on it."""
    count = len(record(tmp_path / "counted", scene, use_bundles))
    for number in range(CUTS_A_WAY):
        seed = random.Random(number)
        root = tmp_path / f"store-{number}"
        shutil.copytree(scene.store, root)
        operations: list[Operation] = []
        killed_at = seed.randrange(count)

        def watch(
            operation: Operation, done: list[Operation] = operations, end: int = killed_at
        ) -> None:
            if len(done) == end:
                raise Killed
            done.append(operation)

        with durable.observed(watch), suppress(Killed):
            use_bundles(Store(root), scene)
        with durable.observed(operations.append):
            use_bundles(Store(root), scene)
        end = seed.randrange(killed_at, len(operations) + 1)
        after = tmp_path / f"after-{number}"
        replayed(root, scene.store, operations[:end]).after_a_cut(seed, after)
        assert_whole(Store(after), scene)
        assert_goes_on(Store(after), scene, use_bundles)
        shutil.rmtree(after)


def test_the_first_version_of_a_store_is_cut_off_too(scene: Scene, tmp_path: Path) -> None:
    root = tmp_path / "store"
    operations: list[Operation] = []
    root.mkdir()
    with durable.observed(operations.append):
        store = Store(root)
        store.activate(store.add(scene.bundles[0]).version)
    for number in range(10):
        seed = random.Random(number)
        disk = replayed(root, None, operations[: seed.randrange(len(operations) + 1)])
        after = tmp_path / f"after-{number}"
        disk.after_a_cut(seed, after)
        store = Store(after)
        state = store.state
        if state.current is not None:
            assert_whole(store, scene)
        store.activate(store.add(scene.bundles[0]).version)
        assert_whole(store, scene)


def test_a_version_that_is_being_mended_is_cut_off(scene: Scene, tmp_path: Path) -> None:
    """One blob was damaged; whenever the power goes, every file is as it was, or right."""
    root = tmp_path / "store"
    version = Store(scene.store).folder(scene.names[0]).relative_to(scene.store)
    damaged = tmp_path / "damaged"
    shutil.copytree(scene.store, damaged)
    blob = max((damaged / version).glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    shutil.copytree(damaged, root)
    operations: list[Operation] = []
    with durable.observed(operations.append):
        assert Store(root).add(scene.bundles[0]).written_bytes == blob.stat().st_size
    for end in range(len(operations) + 1):
        after = tmp_path / f"after-{end}"
        disk = replayed(root, damaged, operations[:end])
        disk.after_a_cut(random.Random(end), after)
        for path in (after / version).rglob("*"):
            right = scene.bundles[0] / path.relative_to(after / version)
            if path.is_file() and path.name != blob.name:
                assert path.read_bytes() == right.read_bytes()
            elif path.is_file():
                assert path.read_bytes() in (right.read_bytes(), blob.read_bytes())
        store = Store(after)
        store.add(scene.bundles[0])
        assert_whole(store, scene)
        assert not list((after / "incoming").iterdir())
        shutil.rmtree(after)


def kill(scene: Scene, tmp_path: Path, way: Way, kills: int) -> None:
    count = len(record(tmp_path / "counted", scene, way))
    for number in range(kills):
        root = tmp_path / f"killed-{number}"
        shutil.copytree(scene.store, root)
        end = random.Random(number).randrange(count)
        assert killed(root, scene, way, end) == -signal.SIGKILL
        assert_whole(Store(root), scene)
        assert_goes_on(Store(root), scene, way)
        shutil.rmtree(root)


def killed(root: Path, scene: Scene, way: Way, end: int) -> int:
    """The fate of a child that is killed before its operation of that number."""
    child = os.fork()
    if child == 0:
        left = end

        def count(_operation: Operation) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        with durable.observed(count):
            way(Store(root), scene)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("way", WAYS)
def test_a_command_is_killed_at_any_moment(scene: Scene, tmp_path: Path, way: Way) -> None:
    kill(scene, tmp_path, way, KILLS_A_WAY)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_commands_are_killed_300_times(scene: Scene, tmp_path: Path, way: Way) -> None:
    kill(scene, tmp_path, way, MANY_CUTS)


def test_the_model_of_a_disk_loses_what_was_not_synced(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    operations: list[Operation] = []
    with durable.observed(operations.append):
        with durable.Output(root / "a") as output:
            output.write(b"many bytes")
        durable.rename(root / "a", root / "b")
    found = set()
    for number in range(60):
        after = tmp_path / f"after-{number}"
        replayed(root, None, operations).after_a_cut(random.Random(number), after)
        found.update((path.name, path.read_bytes()) for path in after.iterdir())
    assert {name for name, _ in found} == {"a", "b"}
    assert {b"", b"many bytes"} < {data for _, data in found}
    assert any(0 < len(data.rstrip(b"\0")) < 10 for _, data in found)
