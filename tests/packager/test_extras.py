"""What goes into a bundle beside the model: found where the model comes from, or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.contents import read_runtime_list
from edgeslm.bundle.layout import open_layout, read_blob, read_image
from edgeslm.bundle.model_path import find_model, find_package
from edgeslm.bundle.names import Role
from edgeslm.bundle.runtimes import (
    RUNTIME_NAME,
    Runtime,
    RuntimeList,
    WheelFile,
    runtime_id,
    write_runtimes,
)
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import (
    InvalidBundle,
    InvalidGGUF,
    InvalidOption,
    NativeFailure,
    NotFound,
    UserError,
)
from edgeslm.files import sha256
from edgeslm.packager import pipeline
from edgeslm.packager.extras import Extras, look_beside, probe_of
from edgeslm.packager.pipeline import pack
from edgeslm.packager.quantize import quantize
from edgeslm.targets.loading import load_target
from edgeslm.targets.writing import target_toml
from edgeslm.testing import tiny_adapter, tiny_gguf

EPOCH = "c-1!2.0+cpu-py3-none-any.whl"
BOARD = load_target("rpi5-4gb")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A quantized model, which is packed as it is."""
    full = tiny_gguf(tmp_path / "full.gguf", weight_type="F16", layers=1)
    return quantize(full, tmp_path / "small.gguf", file_type="Q8_0").path


def inside(bundle: Path, role: Role) -> bytes | None:
    layout = open_layout(bundle)
    layer = read_image(layout).layer(role)
    return None if layer is None else read_blob(layout, layer.blob)


def record(path: Path, schema: str, model: Path | None) -> Path:
    digest = "0" * 64 if model is None else sha256(model)
    path.write_text(json.dumps({"schema": schema, "model": {"sha256": digest}}))
    return path


def packed(model: Path, **named: Any) -> Path:
    output = model.with_name("packed")
    pack(model, output, target=BOARD, extras=Extras(**named))
    return output


def test_the_board_goes_along(model: Path) -> None:
    assert inside(packed(model), Role.TARGET) == target_toml(BOARD).encode()


def test_licence_and_card_of_a_checkpoint(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "LICENSE.txt").write_text("Be good.")
    (checkpoint / "README.md").write_text("# The model")
    monkeypatch.setattr(pipeline, "convert", lambda _, output: tiny_gguf(output, layers=1))
    output = tmp_path / "packed"
    pack(checkpoint, output, target=BOARD, file_type="Q8_0")
    assert inside(output, Role.LICENSE) == b"Be good."
    assert inside(output, Role.CARD) == b"# The model"
    again = tmp_path / "again"
    pack(output, again, target=BOARD)
    assert inside(again, Role.LICENSE) == b"Be good."
    assert inside(again, Role.CARD) == b"# The model"
    named = tmp_path / "named.txt"
    named.write_text("Be better.")
    pack(output, again, target=BOARD, extras=Extras(license=named))
    assert inside(again, Role.LICENSE) == b"Be better."
    (checkpoint / "LICENSE.txt").unlink()
    assert look_beside(checkpoint, Extras()).license is None


def test_texts_that_cannot_be_packed(tmp_path: Path, model: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(5 << 20))
    with pytest.raises(InvalidOption, match="long"):
        packed(model, license=tmp_path / "long")
    with pytest.raises(NotFound):
        packed(model, card=tmp_path / "none")
    assert not (tmp_path / "packed").exists()


def test_a_card_beside_the_model_goes_along_if_it_is_its_own(tmp_path: Path, model: Path) -> None:
    assert inside(packed(model), Role.QUALITY) is None
    beside = record(tmp_path / "small.quality.json", "edgeslm.quality/1", model)
    assert json.loads(inside(packed(model), Role.QUALITY) or b"") == json.loads(beside.read_text())
    for schema, about in (("edgeslm.quality/1", None), ("edgeslm.other/1", model)):
        wrong = record(beside, schema, about)
        assert inside(packed(model), Role.QUALITY) is None
        with pytest.raises(InvalidOption, match="quality"):
            packed(model, quality=wrong)
    beside.write_text("{")
    assert inside(packed(model), Role.QUALITY) is None


def test_the_card_of_a_bundle_goes_along_if_it_is_about_the_same_file(
    tmp_path: Path, model: Path
) -> None:
    named = record(tmp_path / "named.json", "edgeslm.quality/1", model)
    bundle = packed(model, quality=named)
    again = tmp_path / "again"
    pack(bundle, again, target=BOARD)
    assert json.loads(inside(again, Role.QUALITY) or b"") == json.loads(named.read_text())
    pack(bundle, again, target=BOARD, file_type="Q4_0")
    assert inside(again, Role.QUALITY) is None


def test_what_was_measured_goes_along(tmp_path: Path, model: Path) -> None:
    ours = record(tmp_path / "ours.json", "edgeslm.measurement/1", model)
    contents = verify_bundle(packed(model, measured=(ours, ours))).contents
    assert contents.measured == (json.loads(ours.read_text()),) * 2
    other = record(tmp_path / "other.json", "edgeslm.measurement/1", None)
    with pytest.raises(InvalidOption, match="about another file"):
        packed(model, measured=(ours, other))


def test_records_are_read_before_the_work(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full.gguf"
    (tmp_path / "none.json").write_text("{}")
    other = record(tmp_path / "other.json", "edgeslm.measurement/1", None)
    monkeypatch.setattr(pipeline, "quantize", pytest.fail)
    monkeypatch.setattr(pipeline, "predict", pytest.fail)
    for named in ({"measured": (tmp_path / "none.json",)}, {"quality": other}):
        with pytest.raises(InvalidOption, match="no edgeslm"):
            packed(full, **named)
    monkeypatch.undo()

    class Never:
        check = bake = staticmethod(pytest.fail)

    with pytest.raises(InvalidOption, match="about another file"):
        pack(
            model,
            tmp_path / "packed",
            target=BOARD,
            system="Be kind.",
            baker=Never(),
            extras=Extras(measured=(other,)),
        )


@pytest.mark.parametrize(
    "value", ["NaN", "1e999", '"\\ud800"', "1" * 5000, "[" * 500 + "]" * 500, '1, "schema": ""']
)
def test_records_that_no_bundle_can_hold(tmp_path: Path, model: Path, value: str) -> None:
    text = json.dumps({"schema": "edgeslm.measurement/1", "model": {"sha256": sha256(model)}})
    (tmp_path / "odd.json").write_text(f'{text[:-1]}, "odd": {value}}}')
    with pytest.raises(InvalidOption, match=r"odd\.json"):
        packed(model, measured=(tmp_path / "odd.json",))


def test_what_was_measured_of_the_same_quantization_goes_along(tmp_path: Path, model: Path) -> None:
    """Quantized in the same way it is the same file."""
    ours = record(tmp_path / "ours.json", "edgeslm.measurement/1", model)
    given = Extras(measured=(ours,))
    full, output = tmp_path / "full.gguf", tmp_path / "packed"
    assert pack(full, output, target=BOARD, file_type="Q8_0", extras=given).contents.measured
    with pytest.raises(InvalidOption, match="about another file"):
        pack(full, output, target=BOARD, file_type="Q4_0", extras=given)


def test_adapters_go_along(tmp_path: Path, model: Path) -> None:
    adapter = tiny_adapter(tmp_path / "poet.gguf", model)
    bundle = packed(model, adapters={"poet": adapter})
    assert find_package(bundle).adapters["poet"].read_bytes() == adapter.read_bytes()
    with pytest.raises(InvalidGGUF):
        packed(model, adapters={"poet": model})
    for name in ("../poet", "", ".hidden", "a b"):
        with pytest.raises(InvalidOption, match="no name for an adapter"):
            packed(model, adapters={name: adapter})


def test_wheels_go_along(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "notes.txt").write_text("not a wheel")
    with pytest.raises(InvalidOption, match="no wheels"):
        packed(model, runtime=folder)
    for name in ("b-2-py3-none-any.whl", "a-1-py3-none-any.whl", EPOCH):
        (folder / name).write_text(name)
    files = {each.file for each in verify_bundle(packed(model, runtime=folder)).contents.files}
    assert {
        f"runtime/{EPOCH}",
        "runtime/a-1-py3-none-any.whl",
        "runtime/b-2-py3-none-any.whl",
    } <= files
    assert "runtime/notes.txt" not in files
    for wrong in (model, tmp_path / "none"):
        with pytest.raises(UserError):
            packed(model, runtime=wrong)


def test_one_wheel_goes_along(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a-1-py3-none-any.whl").write_text("a wheel")
    bundle = packed(model, runtime=tmp_path / "a-1-py3-none-any.whl")
    assert inside(bundle, Role.RUNTIME) == b"a wheel"
    assert inside(bundle, Role.RUNTIMES) is None


def listed(folder: Path, features: tuple[str, ...]) -> Path:
    """A folder of one wheel, and another that runtime.json does not name."""
    folder.mkdir()
    wheel = folder / "a-1-py3-none-any.whl"
    for path in (wheel, folder / "old-1-py3-none-any.whl"):
        path.write_text(path.name)
    identity = runtime_id([sha256(wheel)], "3.11")
    one = Runtime(identity, "aarch64", "some", features, "3.11", "2.34", (), (wheel.name,))
    files = (WheelFile(wheel.name, sha256(wheel), wheel.stat().st_size),)
    (folder / RUNTIME_NAME).write_bytes(write_runtimes(RuntimeList("1", "1", files, (one,))))
    return folder


def test_a_runtime_goes_along_with_its_list(tmp_path: Path, model: Path) -> None:
    folder = listed(tmp_path / "runtime", ("asimddp",))
    bundle = packed(model, runtime=folder)
    files = {each.file for each in verify_bundle(bundle).contents.files}

    assert "runtime/a-1-py3-none-any.whl" in files
    assert "runtime/old-1-py3-none-any.whl" not in files
    assert inside(bundle, Role.RUNTIMES) == (folder / RUNTIME_NAME).read_bytes()
    layout = open_layout(bundle)
    found = read_runtime_list(layout, read_image(layout))
    assert found is not None
    assert found.runtimes[0].features == ("asimddp",)


def test_a_runtime_that_is_wrong_stays_here(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InvalidOption, match=r"nothing in it runs on rpi5-4gb; it is for some"):
        packed(model, runtime=listed(tmp_path / "other", ("sve",)))
    changed = listed(tmp_path / "changed", ())
    (changed / "a-1-py3-none-any.whl").write_text("another")
    with pytest.raises(InvalidBundle, match="not the one"):
        packed(model, runtime=changed)
    (changed / RUNTIME_NAME).write_text("{}")
    with pytest.raises(InvalidBundle, match=r"edgeslm\.runtime/1"):
        packed(model, runtime=changed)


def test_a_tar_and_a_directory_are_the_same_bundle(tmp_path: Path, model: Path) -> None:
    results = [
        pack(model, tmp_path / name, target=BOARD).contents for name in ("packed", "packed.tar")
    ]
    assert results[0] == results[1]
    assert find_model(tmp_path / "packed").read_bytes() == model.read_bytes()


def test_a_model_that_cannot_be_asked_can_be_packed_unasked(tmp_path: Path) -> None:
    bad = tiny_gguf(tmp_path / "bad.gguf", layers=1)
    bad.write_bytes(bad.read_bytes().replace(b"output_norm", b"outputxnorm"))
    with pytest.raises(NativeFailure) as caught:
        probe_of(bad, made_here=False)
    assert "--no-probe" in (caught.value.hint or "")
