"""Target files: the shipped ones are complete and sourced, broken ones are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidTarget, NotFound
from edgeslm.records import Figure, Provenance
from edgeslm.targets import loading
from edgeslm.targets.loading import boards, list_targets, load_target, target_ids

IDS = [
    "rpi-zero-2w",
    "rpi3b-plus",
    "rpi4-2gb",
    "rpi4-4gb",
    "rpi4-8gb",
    "rpi5-2gb",
    "rpi5-4gb",
    "rpi5-8gb",
    "rpi5-16gb",
    "orange-pi-5",
    "rock-5b",
    "jetson-orin-nano",
    "n100",
    "laptop-x86",
    "apple-m1",
    "apple-m2",
    "apple-m3",
    "apple-m4",
]

MINIMAL = """
schema = "edgeslm.target/1"
id = "mine"
name = "My board"
vendor = "Me"
soc = "Home-made"
architecture = "aarch64"
backend = "cpu"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def figures(value: Any) -> Iterator[Figure]:
    """Every figure anywhere in a record."""
    if isinstance(value, Figure):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from figures(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from figures(item)
    elif hasattr(value, "values"):
        for item in value.values():
            yield from figures(item)


@pytest.mark.parametrize("name", IDS)
def test_every_promised_id_resolves(name: str) -> None:
    target = load_target(name)

    assert target.id == name or target.board == name


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.id)
def test_every_figure_has_a_value_a_provenance_and_a_source(target: loading.Target) -> None:
    known = [figure for figure in figures(target) if figure != Figure(None, None, None)]

    assert len(known) >= 4
    for figure in known:
        assert figure.value is not None
        assert figure.value > 0
        assert isinstance(figure.provenance, Provenance)
        assert figure.source


def test_what_nobody_published_is_unknown_and_not_zero() -> None:
    assert load_target("rpi-zero-2w").power.load_watts == Figure(None, None, None)
    assert load_target("apple-m1").memory.free_bytes is None


def test_file_names_are_ids() -> None:
    assert [board.board for board in boards()] == [path.stem for path in loading._shipped_files()]


def test_a_bare_board_name_means_its_default_variant() -> None:
    assert load_target("rpi4").id == "rpi4-4gb"
    assert load_target("rpi5").id == "rpi5-8gb"


def test_variants_differ_in_what_they_say_and_share_the_rest() -> None:
    small, large = load_target("rpi4-2gb"), load_target("rpi4-8gb")

    assert small.memory.total_bytes.value == 2 * 2**30
    assert large.memory.total_bytes.value == 8 * 2**30
    assert "2 GB" in small.name
    assert small.kernels == large.kernels
    assert small.memory.decode_gigabytes_per_second == large.memory.decode_gigabytes_per_second


def test_ids_are_listed_in_human_order() -> None:
    ids = target_ids()

    assert ids.index("rpi5") < ids.index("rpi5-2gb") < ids.index("rpi5-16gb")
    assert set(IDS) <= set(ids)


def test_an_unknown_id_names_the_closest() -> None:
    with pytest.raises(NotFound) as caught:
        load_target("rpi5-8g")

    assert "rpi5-8gb" in str(caught.value.hint)


def test_without_a_default_variant_the_board_itself_is_a_target(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "[variants.x]\nname = 'X'\n")
    assert load_target(path).id == "mine"
    assert [target.id for target in list_targets() if target.id.startswith("orange")] == [
        "orange-pi-5",
        "orange-pi-5-4gb",
        "orange-pi-5-16gb",
    ]


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_target(str(tmp_path / "none.toml"))


def test_a_file_of_ones_own_needs_no_figures(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, MINIMAL))

    assert target.id == "mine"
    assert target.memory.total_bytes.value is None
    assert target.defaults.context_length == 2048


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ("nmae = 'x'", "nmae"),
        ("storage = 'microSD'", "storage"),
        ("memory = 3", "memory"),
        ("cores = [1]", "cores"),
        ("[memory]\ntotal = 1", "memory.total"),
        ("[memory]\ntotal_bytes = 1", "memory.total_bytes"),
        ("[memory.total_bytes]\nvalue = 1\nprovenance = 'measured'", "total_bytes.source"),
        ("[memory.total_bytes]\nvalue = 1\nsource = 'x'", "total_bytes.provenance"),
        ("[memory.total_bytes]\nprovenance = 'measured'\nsource = 'x'", "total_bytes.value"),
        ("[defaults]\nkv_type = 'q8'", "defaults.kv_type"),
        (f"[defaults]\ncontext_length = 1{'0' * 400}", "defaults.context_length"),
        (
            f"[memory.total_bytes]\nvalue = 1{'0' * 400}\nprovenance = 'measured'\nsource = 'x'",
            "total_bytes.value",
        ),
        (f"threads = 1{'0' * 5000}", "mine.toml"),
        (
            "[memory.total_bytes]\nvalue = 0\nprovenance = 'measured'\nsource = 'x'",
            "total_bytes.value",
        ),
        (
            "[memory.total_bytes]\nvalue = true\nprovenance = 'measured'\nsource = 'x'",
            "total_bytes.value",
        ),
        (
            "[memory.total_bytes]\nvalue = nan\nprovenance = 'measured'\nsource = 'x'",
            "total_bytes.value",
        ),
        (
            "[memory.total_bytes]\nvalue = 1\nprovenance = 'guessed'\nsource = 'x'",
            "total_bytes.provenance",
        ),
        ("[[cores]]\nname = 'A'\nspeed = 1", "cores[0].speed"),
        ("[kernels.Q4_K_M]", "kernels.Q4_K_M"),
        ("[kernels.Q4_K]\nspeed = 1", "kernels.Q4_K.speed"),
        ("[caches.Q9]", "caches.Q9"),
        ("[caches.Q8_0]\nspeed = 1", "caches.Q8_0.speed"),
        ("[overhead]\nseconds = 1", "overhead.seconds"),
        ("[overhead]\nlayer_seconds = 1", "overhead.layer_seconds"),
        ("[defaults]\nthreads = 0", "defaults.threads"),
        ("[defaults]\nthreads = 1.5", "defaults.threads"),
        ("[match]\ncpu = [1]", "match.cpu"),
        ("default_variant = 'x'", "default_variant"),
        ("default_variant = 'x'\n[variants]\nx = 1", "variants.x"),
        ("variants = 3", "variants"),
        (
            "default_variant = 'x'\n[power.idle_watts]\nvalue = 1\nprovenance = 'measured'\n"
            "source = 's'\n[variants.x.power.idle_watts]\nvalue = 2",
            "power.idle_watts.provenance",
        ),
        ("default_variant = 'x'\n[variants.x]\nnmae = 'X'", "nmae"),
    ],
)
def test_what_breaks_the_schema_is_named(tmp_path: Path, extra: str, key: str) -> None:
    with pytest.raises(InvalidTarget) as caught:
        load_target(write(tmp_path, MINIMAL + extra))

    assert "mine.toml" in caught.value.message
    assert key in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("missing", ["schema", "id", "name", "vendor", "soc", "backend"])
def test_identity_is_required(tmp_path: Path, missing: str) -> None:
    lines = [line for line in MINIMAL.splitlines() if not line.startswith(missing)]

    with pytest.raises(InvalidTarget, match=missing):
        load_target(write(tmp_path, "\n".join(lines)))


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTarget, match=r"edgeslm\.target/2"):
        load_target(write(tmp_path, MINIMAL.replace("target/1", "target/2")))


@given(text=st.binary(max_size=200))
def test_any_bytes_are_a_target_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.mktemp("target") / "mine.toml"
    path.write_bytes(text)

    with pytest.raises(InvalidTarget):
        load_target(str(path))


toml_values = st.sampled_from(["1", "0.5", "true", "'x'", "[]", "[1]", "{}", "{ value = 1 }"])
keys = st.sampled_from(
    ["name", "cores", "memory", "power", "kernels", "defaults", "match", "variants", "meters"]
)


@given(changes=st.dictionaries(keys, toml_values, max_size=4))
def test_any_value_at_any_key_is_a_target_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, str]
) -> None:
    base = [line for line in MINIMAL.splitlines() if line.split(" =")[0] not in changes]
    text = "\n".join([*base, *(f"{key} = {value}" for key, value in changes.items())])

    try:
        target = load_target(write(tmp_path_factory.mktemp("target"), text))
    except InvalidTarget as error:
        assert error.hint
    else:
        assert target.id == "mine"


def test_an_installed_package_reads_the_files_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "edgeslm/targets"
    (package / "data").mkdir(parents=True)
    (package / "data/mine.toml").write_text(MINIMAL)
    monkeypatch.setenv("EDGESLM_TARGETS", str(tmp_path / "none"))
    monkeypatch.setattr(loading, "__file__", str(package / "loading.py"))

    assert target_ids() == ("mine",)
    assert load_target("mine").name == "My board"
