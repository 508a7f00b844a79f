"""The file of a bench: whatever happens to it, it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import Busy, OutputFailure, UserError
from edgeslm.profiling.journal import open_journal, read_keys
from edgeslm.records import FAILURE_SCHEMA, MEASUREMENT_SCHEMA


def row(key: str, schema: str = MEASUREMENT_SCHEMA, text: str = "") -> dict[str, Any]:
    return {"schema": schema, "text": text, "cell": {"key": key}}


def test_lines_are_added_and_known_again(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    with open_journal(path) as journal:
        assert (journal.done, journal.failed) == (frozenset(), frozenset())
        journal.add(row("a"))
        journal.add(row("b", FAILURE_SCHEMA))
        journal.add(row("c", FAILURE_SCHEMA))
        journal.add(row("c", text="é\u2028\n"))
    assert path.read_text().count("\n") == 4
    with open_journal(path) as journal:
        assert journal.done == {"a", "c"}
        assert journal.failed == {"b"}


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_anywhere_it_loses_the_last_line_at_most(
    tmp_path: Path, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path / "bench.jsonl"
    path.unlink(missing_ok=True)
    with open_journal(path) as journal:
        for number, text in enumerate(texts):
            journal.add(row(f"{number}", text=text))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    also = whole[cut : cut + 1] == b"\n"  # all but the end of the line
    with open_journal(path) as journal:
        assert len(journal.done) == complete + also
        journal.add(row("new"))
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["cell"]["key"] for line in lines][-1] == "new"
    assert len(lines) == complete + also + 1


def test_zeros_after_a_power_failure_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    with open_journal(path) as journal:
        journal.add(row("a"))
    good = path.read_bytes()
    path.write_bytes(good + bytes(200_000))
    with open_journal(path) as journal:
        assert journal.done == {"a"}
    assert path.read_bytes() == good


def test_only_one_may_write(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    with open_journal(path):
        with pytest.raises(Busy, match="another bench"), open_journal(path):
            pass
        assert read_keys(path) == (frozenset(), frozenset())
    with open_journal(path):
        pass


@pytest.mark.parametrize(
    "content",
    [b"a letter to a friend", b'{"a": 1', b'{"schema": "edgeslm.fit/1"}\n', b"[1]\n", b"\xff"],
)
def test_a_file_of_something_else_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    with pytest.raises(UserError), open_journal(path):
        pass
    assert path.read_bytes() == content


def test_what_profile_printed_is_no_journal(tmp_path: Path) -> None:
    """It is one document over many lines: with a line after it, nobody could read it."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"schema": MEASUREMENT_SCHEMA}, indent=2) + "\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match="not a file of edgeslm bench"), open_journal(path):
        pass
    with pytest.raises(UserError, match="not a file of edgeslm bench"):
        read_keys(path)
    assert path.read_bytes() == before


def test_lines_without_a_cell_may_stand_in_it(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps({"schema": MEASUREMENT_SCHEMA}) + "\n")
    with open_journal(path) as journal:
        assert journal.done == frozenset()


def test_a_full_disk_leaves_whole_lines(small_disk: Path) -> None:
    path = small_disk / "bench.jsonl"
    with open_journal(path) as journal:
        journal.add(row("a"))
        with pytest.raises(OutputFailure):
            journal.add(row("b", text="x" * 1_000_000))
    assert read_keys(path) == ({"a"}, frozenset())
    assert path.read_bytes().endswith(b"\n")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputFailure), open_journal(tmp_path / "none" / "bench.jsonl"):
        pass
    assert read_keys(tmp_path / "none.jsonl") == (frozenset(), frozenset())
