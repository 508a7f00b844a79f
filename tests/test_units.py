from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption
from edgeslm.units import (
    format_bytes,
    format_seconds,
    parse_bits,
    parse_bytes,
    parse_widths,
    significant,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1024", 1024),
        ("250M", 250_000_000),
        ("1.5G", 1_500_000_000),
        ("512Mi", 512 * 2**20),
        ("512MiB", 512 * 2**20),
        ("80 mb", 80_000_000),
        (".5k", 500),
        ("2T", 2 * 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-5M", "5X", "1,5G", "0", "1e9", "5i", "٥M", "nan"])
def test_what_is_no_size_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_bytes(text)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidOption):
        assert parse_bytes(text) > 0


@given(st.integers(min_value=1, max_value=10**14))
def test_a_printed_size_reads_back_to_within_its_precision(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.006)


def test_bits_are_any_number_from_1_to_32() -> None:
    assert parse_bits("3.7") == 3.7
    for text in ("0.5", "33", "nan", "inf", "four", ""):
        with pytest.raises(InvalidOption):
            parse_bits(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.01234, "0.0123"), (4.567, "4.57"), (105.4, "105"), (2350.7, "2351")],
)
def test_three_significant_digits(value: float, expected: str) -> None:
    assert significant(value) == expected


def test_durations() -> None:
    assert format_seconds(0.84) == "840 ms"
    assert format_seconds(12.34) == "12.3 s"
    assert format_seconds(200) == "3 min 20 s"


def test_several_widths() -> None:
    assert parse_widths("8, 3.5,4,8.0") == (3.5, 4.0, 8.0)
    for text in ("", ",", "4,", "4;5", "4,99"):
        with pytest.raises(InvalidOption, match="not a width"):
            parse_widths(text)
