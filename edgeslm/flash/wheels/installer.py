"""The installer as one file that a bare python3 runs: `install`, and the modules that it needs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import edgeslm

NAME = "install.pyz"
_MODULES = (
    *("errors", "files", "processor", "records", "signals"),
    *("bundle/documents", "bundle/names", "bundle/runtimes"),
    *("flash/places", "flash/wheels/install", "flash/wheels/tags", "flash/wheels/unpacking"),
)
_PACKAGES = ("", "bundle/", "flash/", "flash/wheels/")
_MAIN = "import sys\n\nfrom edgeslm.flash.wheels.install import main\n\nsys.exit(main())\n"
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def installer() -> bytes:
    """A zip file that `python3 install.pyz --help` explains; always the same bytes."""
    folder = Path(edgeslm.__file__).parent
    files = {f"edgeslm/{package}__init__.py": "" for package in _PACKAGES} | {"__main__.py": _MAIN}
    for module in _MODULES:
        files[f"edgeslm/{module}.py"] = (folder / f"{module}.py").read_text(encoding="utf-8")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(
                zipfile.ZipInfo(name, _NO_TIME), files[name].encode(), zipfile.ZIP_DEFLATED
            )
    return made.getvalue()
