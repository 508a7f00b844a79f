"""Under which names models are served."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from edgeslm.bundle.planning import Parts
from edgeslm.bundle.writing import write_bundle
from edgeslm.cli.hosting import names_of, open_models, packed_adapters
from edgeslm.errors import InvalidOption
from edgeslm.runtime.server.hosted import HostOptions
from edgeslm.testing import tiny_gguf


def test_models_are_called_like_their_files_and_directories(tmp_path: Path) -> None:
    folder, file = tmp_path / "helper-v1.5", tmp_path / "tiny-0.5b.gguf"
    folder.mkdir()
    file.touch()
    assert names_of([folder, file], []) == ["helper-v1.5", "tiny-0.5b"]
    assert names_of([folder, file], ["a", "b"]) == ["a", "b"]
    with pytest.raises(InvalidOption, match="1 names for 2 models"):
        names_of([folder, file], ["a"])


@pytest.fixture
def bundles(tmp_path: Path) -> dict[str, Path]:
    """Two bundles, each with an adapter "poet"; the first with a "clerk" too."""
    adapter = tmp_path / "adapter"
    adapter.write_bytes(b"not looked at")
    for name, adapters in {"one": ("poet", "clerk"), "two": ("poet",)}.items():
        model = tiny_gguf(tmp_path / "model.gguf", layers=1)
        parts = Parts(model, adapters=dict.fromkeys(adapters, adapter))
        write_bundle(tmp_path / name, parts)
    return {name: tmp_path / name for name in ("one", "two")}


@pytest.mark.parametrize(
    ("taken", "names"),
    [
        ((), ["clerk", "one/poet", "two/poet"]),
        (("clerk",), ["one/clerk", "one/poet", "two/poet"]),
    ],
)
def test_adapters_of_one_name_are_told_apart_by_their_models(
    bundles: dict[str, Path], taken: tuple[str, ...], names: list[str]
) -> None:
    wishes = packed_adapters(bundles, taken)
    assert [wish.name for wish in wishes] == names
    assert [wish.base for wish in wishes] == ["one", "one", "two"]


def test_one_bundle_alone(bundles: dict[str, Path]) -> None:
    two = {"two": bundles["two"]}
    assert [wish.name for wish in packed_adapters(two, ["two"])] == ["poet"]
    assert [wish.name for wish in packed_adapters(two, ["two", "poet"])] == ["two/poet"]


def test_only_models_that_share_the_processor_wait_for_each_other(tmp_path: Path) -> None:
    """One alone has its listeners told while the next step is computed."""
    models = {name: tiny_gguf(tmp_path / f"{name}.gguf", layers=1) for name in ("one", "two")}
    options = HostOptions(slots=1, context=256)
    with ExitStack() as stack:
        (alone,) = open_models(stack, {"one": models["one"]}, options)
        assert alone.engine.computes_alone
    with ExitStack() as stack:
        assert not any(each.engine.computes_alone for each in open_models(stack, models, options))
