from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.flash.debian import recipe as recipes
from edgeslm.flash.debian.recipe import SUITES, Recipe, recipe_of


def test_debian_is_a_recipe_and_a_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert recipe_of(Path("debian")) == Recipe("trixie")
    assert recipe_of(Path("debian:bookworm")) == Recipe("bookworm")
    assert recipe_of(Path("raspios.img")) is None
    Path("debian").write_text("an image of that name")
    assert recipe_of(Path("debian")) is None


@pytest.mark.parametrize("name", ["debian:sid", "debian:"])
def test_an_unknown_release_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="not a Debian that is known"):
        recipe_of(Path(name))


def test_another_recipe_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {Recipe(suite).key for suite in SUITES}
    assert Recipe("trixie").key in keys
    monkeypatch.setattr(recipes.initrd, "INIT", "#!/bin/sh\n")
    assert len(keys | {Recipe("trixie").key}) == len(SUITES) + 1


def test_suites_can_be_told_apart_by_their_disks() -> None:
    assert len({Recipe(suite).disk for suite in SUITES}) == len(SUITES)
    assert len(Recipe("trixie").disk.boot) == 8
