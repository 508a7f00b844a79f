"""The model files of a matrix: the given ones, and each in every type that it asks for.

A type is made once, by `edgeslm quantize` in a process of its own, and kept in the cache folder
under a name that says of which content it is made, and how. Without a cache folder it goes when
the variants are closed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from edgeslm import __version__
from edgeslm.bundle.model_path import find_model
from edgeslm.errors import UserError, writing
from edgeslm.files import cache_folder, remembered_sha256
from edgeslm.gguf.validation import read_model
from edgeslm.profiling import jobs
from edgeslm.profiling.jobs import Problem
from edgeslm.profiling.matrix import ORIGINAL, Cell, Matrix


@dataclass(frozen=True)
class Variants:
    """The files of `matrix`; those that were found by `find_variants`. Close it after use.

    Attributes:
        paths: Of the given files, by the models' names.
        digests: Their SHA-256.
        calibration: The SHA-256 of the text that mixes are calibrated on, if there is one.
    """

    matrix: Matrix
    paths: Mapping[str, Path]
    digests: Mapping[str, str]
    calibration: str | None
    _kept: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    def close(self) -> None:
        """Remove the files that were made, where there is no cache folder to keep them in."""
        self._kept.close()

    def path(self, cell: Cell) -> Path:
        """Where the file of a cell lies, or will."""
        if cell.type == ORIGINAL:
            return self.paths[cell.model]
        return self._folder / f"{self.digests[cell.model][:32]}-{cell.type}{self._how(cell)}.gguf"

    def ready(self, cell: Cell) -> Path | Problem:
        """The file of a cell, made if it is not there yet; or why that failed."""
        path = self.path(cell)
        if path.exists():
            return path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        wrong = jobs.problem(jobs.run(jobs.watched(self._command(cell, path))))
        return path if wrong is None else wrong

    @cached_property
    def _folder(self) -> Path:
        known = cache_folder("bench")
        if known is not None:
            return known
        made = tempfile.TemporaryDirectory(prefix="edgeslm-bench-", ignore_cleanup_errors=True)
        return Path(self._kept.enter_context(made))

    def _how(self, cell: Cell) -> str:
        """What else a mix depends on."""
        quantizing = self.matrix.quantizing
        if cell.bits is None:
            return ""
        if self.calibration is not None:
            return f"-{__version__}-{self.calibration[:16]}"
        return f"-{__version__}-quick" if quantizing.quick else f"-{__version__}"

    def _command(self, cell: Cell, path: Path) -> list[str]:
        quantizing = self.matrix.quantizing
        command = [sys.executable, "-m", "edgeslm", "quantize"]
        command += [str(self.paths[cell.model].resolve()), "-o", str(path)]
        if cell.bits is None:
            return [*command, "--type", cell.type]
        command += ["--bits", cell.type]
        if quantizing.calibration is not None:
            command += ["--calibration", str(quantizing.calibration.resolve())]
        return [*command, *(("--quick",) if quantizing.quick else ())]


def find_variants(matrix: Matrix) -> Variants:
    """The given files that cells use, read and hashed before anything runs.

    Raises:
        UserError: one is not there or is no model, or two are the same file.
    """
    paths: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for name in dict.fromkeys(cell.model for cell in matrix.cells):
        path = find_model(matrix.models[name])
        read_model(path)
        digest = remembered_sha256(path)
        for other, known in digests.items():
            if known == digest:
                raise UserError(
                    f"{matrix.path}: the models {other} and {name} are the same file",
                    hint="Leave one of them out.",
                )
        paths[name], digests[name] = path, digest
    text = matrix.quantizing.calibration
    calibration = None if text is None else remembered_sha256(text)
    return Variants(matrix, paths, digests, calibration)
