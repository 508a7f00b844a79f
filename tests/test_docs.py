"""The pages under docs/ say what is true: commands run, keys exist, generated text is fresh."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shown_commands import ROOT, StandIns, run_page, run_python
from warm import Warm

from edgeslm.bundle.contents import ChatSettings
from edgeslm.bundle.layout import open_layout, read_blob, read_image
from edgeslm.bundle.names import FILES, WEIGHTS, Role
from edgeslm.records import CHAT_SCHEMA, document

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PROSE = sorted([*PAGES, *ROOT.glob("*.md"), ROOT / "edgeslm" / "SHAPE.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_runs(page: Path, tmp_path: Path, stand_ins: StandIns) -> None:
    assert run_page(page, tmp_path, stand_ins) > 0


def test_python_examples_run(tmp_path: Path, stand_ins: StandIns) -> None:
    assert run_python(DOCS / "chat.md", tmp_path, stand_ins) == 1
    assert run_python(DOCS / "evaluate.md", tmp_path, stand_ins) == 1
    assert run_python(DOCS / "serve.md", tmp_path, stand_ins) == 1


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not link.startswith(("https://", "mailto:")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in PAGES:
        assert f"(docs/{page.name})" in readme, page.name


def test_commands_page_is_what_the_program_says() -> None:
    fresh = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs"), "--stdout"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    ).stdout
    assert (DOCS / "commands.md").read_text() == fresh, "run scripts/docs"


def test_commands_page_names_every_spelling_of_an_option() -> None:
    from typer.main import get_command

    from edgeslm.cli.main import app

    def spellings(command: Any) -> Iterator[str]:
        for below in getattr(command, "commands", {}).values():
            yield from spellings(below)
        for param in () if hasattr(command, "commands") else command.params:
            if param.param_type_name == "option" and param.help and not param.hidden:
                yield from (*param.opts, *param.secondary_opts)

    named = set(re.findall(r"(?<=[` ])--?[a-z][a-z-]*", (DOCS / "commands.md").read_text()))
    found = set(spellings(get_command(app)))
    assert "--no-speculate" in found
    assert found <= named, found - named


def test_measure_page_names_every_key_of_a_measurement(tiny_model: Path, warm: Warm) -> None:
    output = _edgeslm(
        warm,
        *("profile", tiny_model, "--prompt-tokens", "8", "--tokens", "4"),
        *("--repeats", "1", "--threads", "1", "--json"),
    )
    assert _named_keys(DOCS / "measure.md") == set(_keys(json.loads(output)))


def test_evaluate_page_names_every_key_of_a_card(
    tiny_model: Path, warm: Warm, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A good day to you all. " * 10)
    output = _edgeslm(
        warm,
        *("evaluate", tiny_model, "--reference", tiny_model, "--text", text, "--context", "32"),
        *("--tasks", DOCS / "examples" / "questions.jsonl", "--card", "none", "--json"),
    )
    assert _named_keys(DOCS / "evaluate.md") == set(_keys(json.loads(output)))


def test_bundle_page_names_every_key_of_its_documents(stand_ins: StandIns) -> None:
    layout = open_layout(stand_ins.packed)
    image = read_image(layout)
    named = _named_keys(DOCS / "bundle.md")
    found = set(_keys({"chat": document(CHAT_SCHEMA, ChatSettings())}))
    for role in (Role.FIGURES, Role.PROBE, Role.TENSORS):
        layer = image.layer(role)
        assert layer is not None
        found |= set(_keys({role.value: json.loads(read_blob(layout, layer.blob))}))
    assert named == found


def test_bundle_page_names_every_file_of_a_bundle() -> None:
    page = (DOCS / "bundle.md").read_text()
    kinds = dict(FILES.values()) | {"model.gguf": WEIGHTS}
    for name, kind in kinds.items():
        word = kind.removeprefix("application/vnd.cncf.model.").removesuffix(".v1.raw")
        assert f"| {name} | {word} |" in page, name


def test_report_page_names_every_key_of_a_report(
    tiny_model: Path, warm: Warm, tmp_path: Path
) -> None:
    short = ("--prompt-tokens", "8", "--tokens", "4", "--repeats", "1", "--threads", "1")
    result = tmp_path / "result.json"
    result.write_text(_edgeslm(warm, "profile", tiny_model, *short, "--idle", "0", "--json"))
    report = json.loads(_edgeslm(warm, "report", result, "--json"))
    page = (DOCS / "report.md").read_text()
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (.*) \|$", page, re.MULTILINE)
    named = {name for row, _ in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(report)
    words = next(meaning for row, meaning in rows if row == "`results`")
    assert set(re.findall(r"`(\w+)`", words)) == set(report["results"][0])


def test_convert_page_names_what_can_be_converted() -> None:
    from edgeslm.packager.convert.families import FAMILIES
    from edgeslm.packager.convert.pretokenizer import _NAMES

    text = (DOCS / "convert.md").read_text()
    for name in (*FAMILIES, *_NAMES.values()):
        assert f"`{name}`" in text, name


def test_shape_names_every_module() -> None:
    package = ROOT / "edgeslm"
    modules = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    rows = re.findall(r"^\| `([\w/]+)` \|", (package / "SHAPE.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(modules)


def test_the_changelog_has_an_entry_for_this_version() -> None:
    from edgeslm import __version__

    assert f"## {__version__} - " in (ROOT / "CHANGELOG.md").read_text()


def _edgeslm(warm: Warm, *arguments: object) -> str:
    done = warm.run([str(argument) for argument in arguments])
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _keys(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of everything in a JSON object that is no object itself."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _keys(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _named_keys(page: Path) -> set[str]:
    """The keys in the first column of a page's tables; `a.{b,c}` stands for two."""
    named: set[str] = set()
    for entry in re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE):
        start, brace, names = entry.partition("{")
        named |= {start + name for name in names.rstrip("}").split(",")} if brace else {entry}
    return named
