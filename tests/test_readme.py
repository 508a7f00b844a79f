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


def test_the_pictures_need_nothing_from_elsewhere() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text())
    assert "docs/images/demo.svg" in pictures
    for picture in pictures:
        data = (ROOT / picture).read_bytes()
        if picture.endswith(".svg"):
            assert data.startswith(b"<svg")
            assert not re.findall(rb"url\(.?http|href=.http", data)
        else:
            assert data.startswith(b"\x89PNG")


def test_the_picture_shows_commands_of_today() -> None:
    """Each command in the picture is one that the script which draws it runs."""
    script = (ROOT / "scripts" / "screenshot").read_text()
    drawing = (ROOT / "docs" / "images" / "demo.svg").read_text().replace("&#160;", " ")
    for verb in ("edgeslm pack", "edgeslm run", "edgeslm profile"):
        assert verb in script
        assert verb in drawing
