"""A target that was written reads back as what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidTarget, NotFound, OutputFailure
from edgeslm.records import Figure, Provenance
from edgeslm.targets import loading
from edgeslm.targets.loading import list_targets, load_target, target_ids, user_directory
from edgeslm.targets.target import Overhead, Target
from edgeslm.targets.writing import write_target


def alone(target: Target) -> Target:
    """A target as a file of its own has it: its id is also the board's."""
    return dataclasses.replace(target, board=target.id)


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.id)
def test_every_shipped_target_survives(tmp_path: Path, target: Target) -> None:
    path = tmp_path / "mine.toml"
    write_target(alone(target), path, comment="one\ntwo")

    assert load_target(str(path)) == alone(target)
    assert path.read_text().startswith("# one\n# two\n")
    assert list(tmp_path.iterdir()) == [path]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    name=texts,
    source=texts,
    value=st.floats(1e-9, 1e15),
    storage=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_any_text_and_number_survives(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    source: str,
    value: float,
    storage: list[str],
) -> None:
    path = tmp_path_factory.mktemp("target") / "mine.toml"
    figure = Figure(value, Provenance.MEASURED, source)
    target = dataclasses.replace(
        alone(load_target("rpi4")),
        name=name,
        storage=tuple(storage),
        caches={"Q8_0": figure},
        overhead=Overhead(figure, figure),
    )
    write_target(target, path)
    assert load_target(str(path)) == target


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(InvalidTarget):
        write_target(dataclasses.replace(load_target("rpi4"), name=""), path)
    with pytest.raises(OutputFailure):
        write_target(load_target("rpi4"), tmp_path / "none" / "mine.toml")
    assert not list(tmp_path.iterdir())


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert user_directory() is not None
    monkeypatch.setenv("EDGESLM_TARGETS", str(tmp_path))
    assert user_directory() == tmp_path
    monkeypatch.delenv("EDGESLM_TARGETS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_directory() == tmp_path / "edgeslm" / "targets"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_directory() == tmp_path / ".config" / "edgeslm" / "targets"


def test_a_target_in_the_users_folder_has_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGESLM_TARGETS", str(tmp_path))
    mine = dataclasses.replace(load_target("rpi4"), id="rpi4-mine", board="rpi4-mine", name="Mine")
    write_target(mine, tmp_path / "rpi4-mine.toml")

    assert "rpi4-mine" in target_ids()
    assert load_target("rpi4-mine") == mine
    assert mine in list_targets()
    assert load_target("rpi4").name != "Mine"
    assert all(board.name != "Mine" for board in loading.boards())
    (tmp_path / "rpi4-mine.toml").rename(tmp_path / "shelf.toml")
    assert load_target("rpi4-mine") == load_target("shelf") == mine
    monkeypatch.setenv("EDGESLM_TARGETS", str(tmp_path / "other"))
    with pytest.raises(NotFound):
        load_target("rpi4-mine")
