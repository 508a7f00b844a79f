"""The README: its commands run, its links lead somewhere, its picture is there."""

from __future__ import annotations

import re
from pathlib import Path

from shown_commands import ROOT, StandIns, run_page, shown_commands

README = ROOT / "README.md"


def test_every_command_runs(tmp_path: Path, stand_ins: StandIns) -> None:
    assert run_page(README, tmp_path, stand_ins) >= 8


def test_it_shows_how_to_start() -> None:
    assert {"scripts/demo", "scripts/test"} <= set(shown_commands(README))


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text())
    drawing = (ROOT / picture).read_text()
    assert drawing.startswith("<svg")
    assert not re.findall(r"url\(.?http|href=.http", drawing)


def test_the_picture_shows_commands_of_today() -> None:
    """Each command in the picture is one that the script which draws it runs."""
    script = (ROOT / "scripts" / "screenshot").read_text()
    drawing = (ROOT / "docs" / "images" / "demo.svg").read_text().replace("&#160;", " ")
    for verb in ("edgeslm pack", "edgeslm run", "edgeslm profile"):
        assert verb in script
        assert verb in drawing
