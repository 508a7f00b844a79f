"""What the wheel holds, since users get nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_package_and_the_targets(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "edgeslm").rglob("*.py")}
    targets = {f"edgeslm/targets/data/{path.name}" for path in (ROOT / "targets").glob("*.toml")}
    page = {f"edgeslm/profiling/report/page.{kind}" for kind in ("css", "js")}
    assert modules | targets | page | {"edgeslm/py.typed"} <= names
    assert not any(name.endswith(".md") for name in names)
    assert wheel.stat().st_size < 1_100_000
