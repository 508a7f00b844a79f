"""Pictures: whole files with labelled axes, the same for the same figures."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edgeslm.errors import InvalidOption, OutputFailure, Unsupported
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.packager.quantize import plots
from edgeslm.packager.quantize.explain import Explanation, Point, Series, explain
from edgeslm.packager.quantize.plots import save_bits_plot, save_pareto_plot
from edgeslm.testing import tiny_gguf

pytest.importorskip("matplotlib")

SERIES = (
    Series("stock", (Point("Q4_0", 90_000_000, 0.27), Point("Q4_K_M", 105_000_000, 0.056))),
    Series("ours", (Point("5.2 bits", 90_000_000, 0.04),)),
)


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    header = read_header(tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", layers=3))
    types = {t.name: tensor_type("Q4_0") for t in header.tensors if len(t.shape) > 1}
    return explain(header, types | {"blk.0.attn_v.weight": tensor_type("Q8_0")}, {})


def words(path: Path) -> str:
    """The text in an SVG file."""
    return " ".join("".join(element.itertext()) for element in ET.parse(path).iter())


def test_bits_by_layer_and_role(explanation: Explanation, tmp_path: Path) -> None:
    save_bits_plot(explanation, tmp_path / "bits.svg")
    text = words(tmp_path / "bits.svg")
    for word in ("bits per weight", "layer", "attn_v", "ffn_down", "Tiny llama"):
        assert word in text


def test_quality_against_size(tmp_path: Path) -> None:
    save_pareto_plot(SERIES, tmp_path / "pareto.svg")
    text = words(tmp_path / "pareto.svg")
    for word in ("file size, MB", "KL divergence, nats per token (log scale)"):
        assert word in text
    for word in ("stock", "ours", "Q4_K_M", "5.2 bits", "0.05"):
        assert word in text


def test_large_files_are_in_gigabytes(tmp_path: Path) -> None:
    series = (Series("one", (Point("a", 4_000_000_000, 1.0), Point("b", 5_000_000_000, 0.001))),)
    save_pareto_plot(series, tmp_path / "p.svg", loss="loss, nats")
    assert "file size, GB" in words(tmp_path / "p.svg")
    assert "loss, nats (log scale)" in words(tmp_path / "p.svg")


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.pdf", b"%PDF")])
def test_other_formats(tmp_path: Path, name: str, start: bytes) -> None:
    save_pareto_plot(SERIES, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_the_same_figures_give_the_same_file(explanation: Explanation, tmp_path: Path) -> None:
    save_bits_plot(explanation, tmp_path / "one.svg")
    save_bits_plot(explanation, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize(
    "series",
    [
        (),
        (Series("empty", ()),),
        (Series("zero", (Point("a", 1, 0.0),)),),
        (Series("nan", (Point("a", 1, float("nan")),)),),
        (Series("many", (Point("a", 1, 1.0),)),) * 7,
    ],
)
def test_what_cannot_be_drawn(tmp_path: Path, series: tuple[Series, ...]) -> None:
    with pytest.raises(InvalidOption) as caught:
        save_pareto_plot(series, tmp_path / "p.svg")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_places_and_names_that_do_not_do(explanation: Explanation, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"p\.jpg: not the name of a picture"):
        save_bits_plot(explanation, tmp_path / "p.jpg")
    with pytest.raises(OutputFailure):
        save_bits_plot(explanation, tmp_path / "missing" / "p.svg")


def test_without_matplotlib(
    explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Unsupported, match="matplotlib") as caught:
        save_bits_plot(explanation, tmp_path / "p.svg")
    assert "pip install matplotlib" in (caught.value.hint or "")


def test_the_loss_has_a_logarithmic_axis() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    plots._draw_pareto(figure, SERIES, "loss")
    (axes,) = figure.axes
    assert (axes.get_yscale(), axes.get_xscale()) == ("log", "linear")
    assert [line.get_label() for line in axes.get_lines()] == ["stock", "ours"]
