"""What was tuned is found again where it is good, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import Failure, InvalidOption, OutputFailure
from edgeslm.gguf.arrays import Numbers
from edgeslm.gguf.types import KV_TYPES
from edgeslm.gguf.validation import read_model
from edgeslm.llama.context import ContextOptions
from edgeslm.records import TUNED_SCHEMA, Statistic, document
from edgeslm.runtime import tuned
from edgeslm.runtime.server.hosted import Hosted, HostOptions
from edgeslm.runtime.tuned import (
    Choice,
    Place,
    Speeds,
    Tuned,
    default_choice,
    model_identity,
    place_of,
    require_kv_type,
    settle,
    tuned_from_json,
)
from edgeslm.testing import tiny_gguf

_FAST = Speeds(Statistic.of([90.0, 110.0, 100.0]), Statistic.of([9.0]), "F16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuned"


def _tuned(place: Place, choice: Choice) -> Tuned:
    return Tuned(place, "tiny.gguf", "2026-01-02T03:04:05+00:00", 512, choice, choice, _FAST, _FAST)


PLACE = Place("model", "machine", "build")
CHOICE = Choice(1, 3, 128, "Q8_0")

_COUNTS = st.integers(1, 512)
_CHOICES = st.builds(
    Choice,
    threads=_COUNTS,
    prefill_threads=_COUNTS,
    ubatch=_COUNTS,
    kv_type=st.sampled_from(KV_TYPES),
    cores=st.one_of(st.none(), st.lists(st.integers(0, 999), min_size=1).map(tuple)),
)


@given(_CHOICES, _CHOICES, st.text(), st.lists(st.floats(0.001, 1e6), min_size=1))
def test_a_record_is_the_same_after_json(
    choice: Choice, defaults: Choice, text: str, samples: list[float]
) -> None:
    speeds = Speeds(Statistic.of(samples), Statistic.of(samples[:1]), choice.kv_type)
    record = replace(
        _tuned(Place(text, text, text), choice), defaults=defaults, chosen_speeds=speeds
    )
    written = json.loads(json.dumps(document(TUNED_SCHEMA, record)))
    assert tuned_from_json(written) == record


def test_what_is_kept_is_found_and_can_be_forgotten(own_cache: Path) -> None:
    assert tuned.find(PLACE) is None
    assert not tuned.forget(PLACE)
    record = _tuned(PLACE, CHOICE)
    path = tuned.save(record)
    assert tuned.find(PLACE) == tuned.load(PLACE) == record
    assert [each.name for each in own_cache.iterdir()] == [path.name]
    assert tuned.forget(PLACE)
    assert list(own_cache.iterdir()) == []


def test_another_build_replaces_what_is_stale_and_another_machine_does_not(
    own_cache: Path,
) -> None:
    tuned.save(_tuned(PLACE, CHOICE))
    elsewhere = replace(PLACE, machine="another")
    tuned.save(_tuned(elsewhere, CHOICE))
    newer = replace(PLACE, build="newer")
    assert tuned.find(newer) is None
    tuned.save(_tuned(newer, CHOICE))
    assert tuned.find(PLACE) is None
    assert tuned.find(elsewhere) is not None
    assert len(list(own_cache.iterdir())) == 2
    assert tuned.forget(PLACE)
    assert tuned.find(newer) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text.replace("edgeslm.tuned/1", "edgeslm.tuned/2"),
        lambda text: text.replace('"threads": 1', '"threads": 0'),
        lambda text: text.replace('"threads": 1', '"threads": true'),
        lambda text: text.replace('"threads": 1', '"threads": 100000'),
        lambda text: text.replace('"Q8_0"', '"Q9_9"'),
        lambda text: text.replace("100.0", "NaN"),
        lambda text: text.replace("100.0", "-1"),
        lambda text: text.replace("100.0", "1" + "0" * 400),
        lambda text: text.replace("100.0", "9" * 5000),
        lambda text: text.replace('"F16"', "[]"),
        lambda text: text.replace('"cores": null', '"cores": []'),
        lambda text: text.replace('"choice"', '"choices"'),
        lambda text: "\udcff".encode("utf-8", "surrogateescape"),
    ],
)
def test_a_damaged_file_is_as_none_and_is_named_to_who_asks(damage: object) -> None:
    path = tuned.save(_tuned(PLACE, CHOICE))
    damaged = damage(path.read_text())  # type: ignore[operator]
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert tuned.find(PLACE) is None
    with pytest.raises(Failure, match="not what edgeslm tune writes"):
        tuned.load(PLACE)
    assert tuned.forget(PLACE)
    assert tuned.load(PLACE) is None


def test_a_file_of_another_place_is_not_believed() -> None:
    path = tuned.save(_tuned(PLACE, CHOICE))
    other = replace(PLACE, model="other")
    path.rename(path.with_name(f"{other.name}.json"))
    assert tuned.find(other) is None


def test_where_nothing_can_be_written_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputFailure):
        tuned.save(_tuned(PLACE, CHOICE))
    assert tuned.find(PLACE) is None


def test_a_model_is_what_decides_its_speed(tiny_model: Path, tmp_path: Path) -> None:
    same = tiny_gguf(tmp_path / "seed.gguf", context_length=512, seed=5)
    wider = tiny_gguf(tmp_path / "wide.gguf", context_length=512, feed_forward=96)
    halved = tiny_gguf(tmp_path / "half.gguf", context_length=512, weight_type="F16")
    identity = model_identity(read_model(tiny_model))
    assert model_identity(read_model(same)) == identity
    assert model_identity(read_model(wider)) != identity
    assert model_identity(read_model(halved)) != identity


def test_lists_of_hyperparameters_count_however_long(tiny_model: Path) -> None:
    header = read_model(tiny_model)

    def identity(heads: object) -> str:
        metadata = {**header.metadata, "llama.attention.head_count_kv": heads}
        return model_identity(replace(header, metadata=metadata))

    long = Numbers(bytes(4 * 5000), "I")
    assert identity(long) == identity(tuple(long)) != identity((1, 2)) != identity((2, 1))


def test_what_was_tuned_is_used_for_what_is_not_given(tiny_model: Path) -> None:
    header = read_model(tiny_model)
    options = ContextOptions(length=256)
    untuned = settle(header, options, threads=None, kv_type="F16")
    assert not untuned.tuned
    assert untuned.options.threads == default_choice().threads
    assert untuned.options.ubatch == ContextOptions().ubatch
    tuned.save(_tuned(place_of(header), CHOICE))
    found = settle(header, options, threads=None, kv_type="F16")
    assert found.tuned
    assert found.described() == {
        "threads": 1,
        "prefill_threads": 3,
        "ubatch": 128,
        "kv_type": "F16",
        "cores": None,
        "tuned": True,
    }
    assert found.options.length == 256
    given_threads = settle(header, options, threads=2, kv_type="AUTO").options
    assert (given_threads.threads, given_threads.prefill_threads) == (2, 2)
    assert (given_threads.ubatch, given_threads.kv_type) == (128, "Q8_0")


def test_cores_are_kept_to_only_where_threads_are_tuned_too(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(tuned, "allowed_cores", lambda: tuple(allowed))
    header = read_model(tiny_model)
    tuned.save(_tuned(place_of(header), replace(CHOICE, cores=(4, 5))))
    assert settle(header, ContextOptions(), threads=2, kv_type="F16").cores is None
    assert settle(header, ContextOptions(), threads=None, kv_type="F16").cores == (4, 5)
    allowed.remove(4)
    assert settle(header, ContextOptions(), threads=None, kv_type="F16").cores is None


def test_a_type_of_cache_is_known_or_auto() -> None:
    require_kv_type("AUTO")
    require_kv_type("Q8_0")
    with pytest.raises(InvalidOption):
        require_kv_type("Q2_K")


def test_a_served_model_runs_as_tuned(tiny_model: Path) -> None:
    tuned.save(_tuned(place_of(read_model(tiny_model)), CHOICE))
    options = HostOptions(slots=1, context=256, kv_type="F16", threads=None)
    with Hosted("tiny", tiny_model, options) as hosted:
        context = hosted.engine.context
        assert context.threads == (1, 3)
        assert (context.options.ubatch, context.options.kv_type) == (128, "F16")
    options = HostOptions(slots=1, context=256, threads=2)
    with Hosted("tiny", tiny_model, options) as hosted:
        assert hosted.engine.context.threads == (2, 2)
