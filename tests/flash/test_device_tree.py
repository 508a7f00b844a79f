from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.flash.tree import Entry, Link, Tree, tree_of

NAMES = st.text("abc", min_size=1, max_size=2)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=12))
def test_each_folder_comes_before_what_is_in_it(paths: list[str]) -> None:
    try:
        tree = Tree.of(Entry(path, b"") for path in paths)
    except InvalidOption:
        assert any(other.startswith(f"{path}/") for path in paths for other in paths)
        return
    seen: set[str] = set()
    for entry in tree.entries:
        folder = entry.path.rpartition("/")[0]
        assert not folder or folder in seen
        seen.add(entry.path)
    assert {entry.path for entry in tree.files} == set(paths)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a/",
        './a"b',
        'a"b',
        "a\nb",
        "a\\b",
        "é" * 128,
        "\udcff",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidOption):
        Entry(path, b"")


@pytest.mark.parametrize("target", ["", "a\nrm /etc/fstab", "a\r", "\x7f", "\udcff"])
def test_what_no_link_leads_to_is_refused(target: str) -> None:
    with pytest.raises(InvalidOption):
        Link(target)


def test_one_path_cannot_be_two_files() -> None:
    with pytest.raises(InvalidOption, match="twice"):
        Tree.of([Entry("a", b"1"), Entry("a", b"2")])


def test_a_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "run").write_bytes(b"#!")
    (tmp_path / "bin" / "run").chmod(0o777)
    (tmp_path / "bin" / "__pycache__").mkdir()
    (tmp_path / "alias").symlink_to("bin")

    tree = tree_of(tmp_path, "opt/x")

    assert [(entry.path, entry.mode, entry.content) for entry in tree.entries] == [
        ("opt", 0o755, None),
        ("opt/x", 0o755, None),
        ("opt/x/alias", 0o777, Link("bin")),
        ("opt/x/bin", 0o755, None),
        ("opt/x/bin/__pycache__", 0o755, None),
        ("opt/x/bin/run", 0o755, tmp_path / "bin" / "run"),
    ]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(Unsupported, match="neither"):
        tree_of(tmp_path, "x")
