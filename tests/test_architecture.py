"""Which room may import which, and what the command line may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgeslm"

FLOORS = {
    "errors": 0,
    "signals": 0,
    "units": 1,
    "files": 1,
    "ssh": 1,
    "processor": 1,
    "gguf": 1,
    "records": 2,
    "progress": 2,
    "targets": 3,
    "llama": 3,
    "bundle": 3,
    "estimate": 4,
    "packager": 5,
    "runtime": 5,
    "flash": 5,
    "profiling": 6,
    "cli": 7,
}
ON_TOP = {"__init__", "__main__", "testing"}
SAME_FLOOR = {("gguf", "files"), ("gguf", "units"), ("files", "units")}
"""Rooms on one floor don't know each other; on the ground floor these may."""

_KEYS_PASS = ("packager/pipeline.py", "cli/bundles.py")
"""Where a private key passes through; only its type is named there."""
ONLY_IN = {
    "llama_cpp": ("llama/",),
    "typer": ("cli/",),
    "psutil": ("profiling/", "targets/", "runtime/governor.py"),
    "starlette": ("runtime/server/",),
    "uvicorn": ("runtime/server/",),
    "msgspec": ("runtime/server/",),
    "anyio": ("runtime/server/",),
    "cryptography": ("bundle/signing.py", "bundle/verification.py", *_KEYS_PASS),
    "oras": ("bundle/registry.py",),
    "requests": ("bundle/registry.py",),
    "torch": ("packager/shrink/",),
    "transformers": ("packager/shrink/",),
    "safetensors": ("packager/convert/",),
}
HEAVY = {
    "torch",
    "transformers",
    "safetensors",
    "rich",
    "matplotlib",
    "cryptography",
    "oras",
    "requests",
}
"""Not at the top of a module: imported where they are used."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            if node.module == "edgeslm":
                yield from (f"edgeslm.{alias.name}" for alias in node.names)


def _imported_rooms(path: Path) -> Iterator[str]:
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "edgeslm" and len(parts) > 1 and not parts[1].startswith("__"):
            yield parts[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = _room(path)
    if room in ON_TOP:
        return
    for other in _imported_rooms(path):
        if other == room or (room, other) in SAME_FLOOR:
            continue
        assert other in FLOORS, f"{other} has no floor"
        assert FLOORS[other] < FLOORS[room], f"{room} must not know {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    for name in _imports(path):
        allowed = ONLY_IN.get(name.split(".")[0])
        if allowed is not None and relative != "testing.py":
            assert relative.startswith(allowed), f"{name} belongs in {allowed}"
    for name in _imports(path, top_level_only=True):
        assert name.split(".")[0] not in HEAVY, f"{name} must be imported where it is used"


def test_packager_steps_are_joined_only_by_the_pipeline() -> None:
    steps = {"convert", "shrink", "quantize", "evaluate"}
    for path in PACKAGE.glob("packager/*/**/*.py"):
        step = path.relative_to(PACKAGE / "packager").parts[0]
        known = {
            name.split(".")[2] for name in _imports(path) if name.startswith("edgeslm.packager.")
        }
        others = (known & steps) - {step}
        assert others <= ({"evaluate"} if step == "quantize" else set()), f"{path} knows {others}"


def test_our_errors_are_caught_only_where_people_are_told() -> None:
    """The entry point and the chat's loop tell people, and so do the rows of a bench.

    The children of the llama room and of the health check tell us, and so does the installer on a
    device.
    """
    children = {"llama/probe.py", "llama/quantizing.py", "runtime/health.py"}
    children |= {"flash/wheels/install.py"}
    allowed = {"cli/main.py", "cli/terminal.py", "profiling/bench.py", *children}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                names = {item.id for item in ast.walk(node.type) if isinstance(item, ast.Name)}
                if "EdgeslmError" in names:
                    assert path.relative_to(PACKAGE).as_posix() in allowed, path


def _loaded(*words: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    code = (
        "import json, sys\n"
        "from edgeslm.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('\\n', json.dumps(sorted(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    ).stdout
    return set(json.loads(output.splitlines()[-1]))


def test_help_loads_neither_numpy_nor_llama_cpp() -> None:
    loaded = {name.split(".")[0] for name in _loaded("--help")}
    assert not loaded & {"numpy", "llama_cpp", "gguf", "jinja2", "rich", "psutil", "pydantic"}
    assert not loaded & {"starlette", "uvicorn", "msgspec", "anyio", "cryptography"}


def test_a_run_loads_nothing_of_other_verbs(tiny_model: Path) -> None:
    """Each megabyte of it would be one less for the model."""
    loaded = _loaded("run", str(tiny_model), "-p", "a", "-n", "1")
    assert {"edgeslm.cli.talk", "edgeslm.llama.context"} <= loaded
    for_others = {f"edgeslm.cli.{name}" for name in ("flash", "host", "make", "measure", "store")}
    for_others |= {"edgeslm.bundle.store", "edgeslm.targets.loading"}
    assert not loaded & for_others
    assert not any(name.startswith(("edgeslm.packager", "edgeslm.flash")) for name in loaded)


def test_files_stay_readable() -> None:
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 500, f"{path} is over 500 lines"


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
