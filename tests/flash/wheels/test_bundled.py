from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_wheels import make_runtimes

from edgeslm.bundle.planning import Parts
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import write_bundle
from edgeslm.errors import InvalidBundle, NotFound, Unsupported
from edgeslm.flash.wheels.bundled import fill, runtimes_in
from edgeslm.flash.wheels.tags import Device

PI = Device("aarch64", (3, 13), (2, 41), frozenset({"asimd"}))


def bundle(tmp_path: Path, model: Path, **changed: object) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_runtimes(folder, "3.13", sets={"armv8-a": (), "armv8.2-a+dotprod": ("asimddp",)})
    given = {
        "wheels": sorted(folder.glob("*.whl")),
        "runtimes": (folder / "runtime.json").read_bytes(),
    }
    write_bundle(tmp_path / "bundle", Parts(model=model, **(given | changed)))  # type: ignore[arg-type]
    return tmp_path / "bundle"


def test_an_image_gets_the_runtime_of_its_board(tmp_path: Path, tiny_model: Path) -> None:
    made = bundle(tmp_path, tiny_model)
    done = fill(made, tmp_path / "root", PI)

    said = json.loads((done.path / "runtime.json").read_text())
    assert said["march"] == "armv8-a"
    assert (tmp_path / "root/opt/edgeslm/current/site/edgeslm/__main__.py").is_file()
    with pytest.raises(Unsupported):
        fill(made, tmp_path / "root", Device("x86_64", (3, 13)))


def test_a_bundle_without_one_says_so(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(NotFound, match="brings no runtime"):
        runtimes_in(bundle(tmp_path, tiny_model, wheels=(), runtimes=None))


def test_a_list_of_wheels_that_are_not_there_is_damage(tmp_path: Path, tiny_model: Path) -> None:
    made = bundle(tmp_path, tiny_model, wheels=())
    with pytest.raises(InvalidBundle, match="is not in the bundle"):
        verify_bundle(made)
