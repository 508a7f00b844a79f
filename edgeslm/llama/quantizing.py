"""The child process of `quantizer`: one call of llama.cpp's file quantizer.

    python -m edgeslm.llama.quantizing < request.json

Its request comes on stdin, so that it can start up before it is known; the log goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.errors import EdgeslmError
from edgeslm.llama import native

FAILURE = "failed to quantize: "
"""What llama.cpp's log puts before the reason."""


@dataclass(frozen=True)
class Request:
    """A job as JSON can carry it, in llama.cpp's terms; `threads` 0 means one per core."""

    source: str
    output: str
    file_type: int
    only_copy: bool
    dry_run: bool
    threads: int
    allow_requantize: bool
    overrides: list[tuple[str, int]]
    imatrix: str | None


def _main() -> int:
    """The child: request on stdin, log on stderr, status and seconds as JSON on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it inside the native call
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # and so does the end of its parent
    request = Request(**json.load(sys.stdin))
    try:
        status, seconds = _call(request)
    except EdgeslmError as error:
        print(f"{FAILURE}{error.message}", file=sys.stderr)
        status, seconds = 1, 0.0
    json.dump({"status": status, "seconds": seconds}, sys.stdout)
    return 0


def _call(request: Request) -> tuple[int, float]:
    """Run llama.cpp's quantizer here; its status, 0 for success, and the seconds it took."""
    lib = native.library()
    lib.llama_log_set(lib.llama_log_callback(), None)  # to stderr, without a way through Python
    overrides = _native_overrides(lib, request.overrides)  # has to outlive the call
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = request.file_type
    parameters.nthread = request.threads
    parameters.allow_requantize = request.allow_requantize
    parameters.only_copy = request.only_copy
    parameters.dry_run = request.dry_run
    if request.overrides:
        parameters.tt_overrides = overrides
    if request.imatrix is not None:
        from edgeslm.llama import importance

        native_matrix = importance.native_matrix(lib, Path(request.imatrix))  # outlives it too
        parameters.imatrix = native_matrix.importances
        parameters.kv_overrides = native_matrix.fields
    paths = os.fsencode(request.source), os.fsencode(request.output)
    started = time.perf_counter()
    status = lib.llama_model_quantize(*paths, ctypes.byref(parameters))
    return int(status), time.perf_counter() - started


def _native_overrides(lib: Any, overrides: list[tuple[str, int]]) -> Any:
    """The overrides as C knows them: patterns that match one name each, ended by a null."""
    array = (lib.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, (name, kind) in zip(array, overrides, strict=False):
        entry.pattern = f"^{_escaped(name)}$".encode()
        entry.type = kind
    return array


def _escaped(name: str) -> str:
    """`name` with ECMAScript's special characters escaped, and no others: std::regex objects."""
    return re.sub(r"([\^$\\.*+?()\[\]{}|])", r"\\\1", name)


if __name__ == "__main__":
    sys.exit(_main())
