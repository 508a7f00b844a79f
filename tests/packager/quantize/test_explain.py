"""What is said of a mix adds up."""

from __future__ import annotations

import json

import pytest

from edgeslm.gguf.reader import Header, read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.packager.quantize.explain import (
    ROLE_HEADER,
    Explanation,
    explain,
    layer_plot,
    marginal_text,
    role_table,
)
from edgeslm.records import to_json
from edgeslm.testing import tiny_gguf

Q4, Q8 = tensor_type("Q4_0"), tensor_type("Q8_0")


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return read_header(tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", layers=4))


@pytest.fixture(scope="module")
def explanation(header: Header) -> Explanation:
    """Q8_0 in the last layer and the embedding; each tensor loses a millionth of its elements."""
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    types = {
        tensor.name: Q8 if tensor.name.startswith(("blk.3.", "token_embd")) else Q4
        for tensor in matrices
    }
    losses = {tensor.name: tensor.elements / 1e6 for tensor in matrices}
    return explain(header, types, losses, marginal=2e-9)


def test_parts_add_up(header: Header, explanation: Explanation) -> None:
    total = explanation.total
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    assert total.elements == sum(tensor.elements for tensor in matrices)
    assert total.loss == pytest.approx(total.elements / 1e6)
    for attribute in ("elements", "bytes"):
        by_role = sum(getattr(part, attribute) for part in explanation.roles.values())
        by_layer = sum(getattr(part, attribute) for part in explanation.layers.values())
        embedding = getattr(explanation.roles["token_embd"], attribute)
        by_cell = sum(
            getattr(part, attribute) for row in explanation.cells.values() for part in row.values()
        )
        assert by_role == by_layer + embedding == by_cell + embedding == getattr(total, attribute)


def test_types_and_bits(explanation: Explanation) -> None:
    assert explanation.roles["attn_q"].types == {"Q4_0": 3, "Q8_0": 1}
    assert explanation.roles["attn_q"].bits_per_weight == pytest.approx((3 * 4.5 + 8.5) / 4)
    assert explanation.layers[0].bits_per_weight == pytest.approx(4.5)
    assert explanation.layers[3].types == {"Q8_0": 7}
    assert list(explanation.layers) == [0, 1, 2, 3]
    sizes = [part.bytes for part in explanation.roles.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert json.dumps(to_json(explanation))


def test_the_table(explanation: Explanation) -> None:
    rows = role_table(explanation)
    assert {len(row) for row in rows} == {len(ROLE_HEADER)}
    assert rows[-1][0] == "all"
    assert rows[-1][-2:] == ("100.0%", "100.0%")
    shares = [float(row[-1].rstrip("%")) for row in rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    table = {row[0]: row for row in rows}
    assert table["attn_q"][1:3] == ("3 x Q4_0, 1 x Q8_0", "5.50")


def test_the_columns(explanation: Explanation) -> None:
    lines = layer_plot(explanation)
    assert lines[0].endswith("layer, 0 to 3 (4.50 to 8.50)")
    assert next(line for line in lines if line.startswith("attn_q ")).split() == [
        "attn_q",
        "▁▁▁█",
        "5.50",
    ]
    assert len(lines) == 1 + 7 + 1


def test_equal_bits_make_a_level_plot(header: Header) -> None:
    types = {f"blk.{layer}.attn_q.weight": Q4 for layer in (0, 2)}
    lines = layer_plot(explain(header, types, {}))
    assert lines[1].split()[1] in ("▄▄", "▅▅")
    assert "attn_k" not in " ".join(lines)


def test_a_role_that_some_layers_lack_leaves_a_gap(header: Header) -> None:
    types = {f"blk.{layer}.attn_q.weight": Q4 for layer in (0, 1, 2)}
    types["blk.1.attn_k.weight"] = Q8
    lines = layer_plot(explain(header, types, {}))
    assert next(line for line in lines if line.startswith("attn_k")) == "attn_k   █   8.50"


def test_the_price_of_a_megabyte(explanation: Explanation, header: Header) -> None:
    text = marginal_text(explanation) or ""
    assert "0.00200" in text
    assert f"{0.002 / (explanation.total.loss or 0):.1%}" in text
    assert marginal_text(explain(header, {"token_embd.weight": Q4}, {})) is None


def test_unknown_losses_are_not_zero(header: Header) -> None:
    explanation = explain(header, {"token_embd.weight": Q4}, {})
    assert explanation.total.loss is None
    assert role_table(explanation)[0][-1] == "-"
    assert layer_plot(explanation) == []
    with pytest.raises(ValueError, match="none of the tensors"):
        explain(header, {"nothing": Q4}, {})
