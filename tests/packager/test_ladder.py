"""Ladders: several widths in one run, kept when run again, never half a rung."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.verification import verify_bundle
from edgeslm.errors import InvalidOption, OutputFailure
from edgeslm.packager import ladder
from edgeslm.packager.ladder import LadderResult, pack_ladder
from edgeslm.packager.quantize import Effort, write
from edgeslm.packager.quantize.mix import Session
from edgeslm.targets.loading import load_target
from edgeslm.testing import tiny_gguf

TEXT = "Dear friend, how are you on this fine and rainy day?\n" * 30
BOARD = load_target("rpi4-4gb")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "letters.txt").write_text(TEXT)
    return tiny_gguf(tmp_path / "tiny.gguf", weight_type="F16")


def climb(folder: Path, *widths: float, **options: object) -> LadderResult:
    settings = {"effort": Effort(quick=True), "text": folder / "letters.txt", **options}
    return pack_ladder(folder / "tiny.gguf", folder / "out", widths, target=BOARD, **settings)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("model")
def test_every_rung_is_packed_and_measured(tmp_path: Path) -> None:
    result = climb(tmp_path, 8, 5)
    rungs = result.ladder.rungs
    assert [rung.bits for rung in rungs] == [5, 8]
    for rung in rungs:
        contents = verify_bundle(tmp_path / "out" / rung.directory).contents
        assert "quality.json" in {each.file for each in contents.files}
        assert (contents.model.sha256, contents.model.bits_per_weight) == (
            rung.sha256,
            rung.bits_per_weight,
        )
        assert rung.bits_per_weight is not None
        assert rung.bits_per_weight <= rung.bits
        card = json.loads((tmp_path / "out" / rung.card).read_text())
        assert card["model"]["sha256"] == rung.sha256
        assert card["kl_divergence"]["mean"] == rung.quality.kl_divergence
    assert rungs[0].quality.kl_divergence > rungs[1].quality.kl_divergence > 0
    stored = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert stored["schema"] == "edgeslm.ladder/1"
    assert [rung["sha256"] for rung in stored["rungs"]] == [rung.sha256 for rung in rungs]
    rest = {"5-bits.quality.json", "8-bits.quality.json", "ladder.json", "pareto.svg"}
    assert names(tmp_path / "out") == {"5-bits", "8-bits", *rest}
    assert names(tmp_path) == {"out", "tiny.gguf", "letters.txt"}


@pytest.mark.usefixtures("model")
def test_what_no_mix_reaches_is_left_out(tmp_path: Path) -> None:
    result = climb(tmp_path, 1.5, 6)
    assert [rung.bits for rung in result.ladder.rungs] == [6]
    (warning,) = [text for text in result.warnings if "1.5" in text]
    assert "no less than --bits" in warning


@pytest.mark.usefixtures("model")
def test_out_of_reach_altogether(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="too small"):
        climb(tmp_path, 1.5, 1.7)
    assert names(tmp_path) == {"tiny.gguf", "letters.txt"}


@pytest.mark.usefixtures("model")
def test_a_killed_run_leaves_whole_rungs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = Session.write

    def interrupted(self: Session, mix: object, output: Path, **options: bool) -> object:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(mix.words)
        return real(self, mix, output, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            climb(tmp_path, 5, 8)
    assert names(tmp_path / "out") == {"5-bits", "5-bits.quality.json", "ladder.json"}
    assert names(tmp_path) == {"out", "tiny.gguf", "letters.txt"}
    first = verify_bundle(tmp_path / "out" / "5-bits").contents
    stamp = find_model(tmp_path / "out" / "5-bits").stat().st_mtime_ns
    again = climb(tmp_path, 5, 8)
    assert [rung.bits for rung in again.ladder.rungs] == [5, 8]
    assert again.ladder.rungs[0].sha256 == first.model.sha256
    assert find_model(tmp_path / "out" / "5-bits").stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("model")
def test_a_damaged_rung_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = climb(tmp_path, 5, 8)
    packed = find_model(tmp_path / "out" / "5-bits")
    data = packed.read_bytes()
    packed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    made: list[float] = []
    real = ladder._Job._rung

    def counted(self: object, work: object, reference: object, bits: float, asked: object):
        made.append(bits)
        return real(self, work, reference, bits, asked)

    monkeypatch.setattr(ladder._Job, "_rung", counted)
    assert climb(tmp_path, 5, 8).ladder == before.ladder
    assert made == [5]


@pytest.mark.usefixtures("model")
def test_finished_work_needs_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = climb(tmp_path, 5, 8)
    monkeypatch.setattr(ladder._Job, "climb", None)
    assert climb(tmp_path, 5, 8) == before


@pytest.mark.usefixtures("model")
def test_other_settings_are_another_ladder(tmp_path: Path) -> None:
    climb(tmp_path, 5)
    with pytest.raises(OutputFailure, match="another context_length"):
        climb(tmp_path, 5, 8, context_length=64)


@pytest.mark.usefixtures("model")
def test_what_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputFailure, match=r"thesis\.tex"):
        climb(tmp_path, 5)
    assert names(tmp_path / "out") == {"thesis.tex"}


@pytest.mark.parametrize("content", ["[]", "{", '{"schema": "edgeslm.ladder/9"}'])
@pytest.mark.usefixtures("model")
def test_another_ladder_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ladder.json").write_text(content)
    with pytest.raises(OutputFailure, match=r"no edgeslm\.ladder/1"):
        climb(tmp_path, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"quality": None},
        {"quality": {"kl_divergence": 1}},
        {"bits": "five"},
        {"bits": True},
        {"sha256": 5},
    ],
)
@pytest.mark.usefixtures("model")
def test_an_entry_that_somebody_edited_is_made_again(
    tmp_path: Path, change: dict[str, object]
) -> None:
    before = climb(tmp_path, 5)
    path = tmp_path / "out" / "ladder.json"
    stored = json.loads(path.read_text())
    stored["rungs"][0] |= change
    path.write_text(json.dumps(stored))
    assert climb(tmp_path, 5).ladder == before.ladder


def test_tensors_of_the_same_type_are_encoded_once(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[Path] = []
    real = write._store

    def store(path: Path, data: object) -> None:
        stored.append(path)
        real(path, data)

    monkeypatch.setattr(write, "_store", store)
    calibrated = Effort(calibration=tmp_path / "letters.txt", sequences=2)
    result = climb(tmp_path, 6, 6.1, effort=calibrated)
    assert len(result.ladder.rungs) == 2
    assert all(rung.quality.expected_kl_divergence for rung in result.ladder.rungs)
    assert len(stored) == len(set(stored))
    assert not stored[0].parent.exists(), "encoded tensors are left behind"
    assert model.exists()
