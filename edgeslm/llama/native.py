"""Loads llama.cpp once, keeps its log, and says which build it is.

llama.cpp reports why it refused something only through its log, so the log is always
captured: `reason(lines)` turns the lines of a failed call into the sentence for the user.
Set EDGESLM_NATIVE_LOG=1 to see every line on stderr as it comes.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ctypes import CDLL
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeslm.errors import NativeFailure

_LEVEL_DEBUG = 1
_LEVEL_WARN = 3
_LEVEL_ERROR = 4
_LEVEL_CONTINUES = 5
_KEPT_LINES = 400
_VERSION = re.compile(r"""^__version__ = ["'](.+)["']""", re.MULTILINE)
_DEFERRED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@dataclass(frozen=True)
class LogLine:
    """One line of llama.cpp's log; `level` as in ggml.h (1 debug .. 4 error)."""

    level: int
    text: str


@dataclass(frozen=True)
class BuildInfo:
    """What runs: the binding's version and the instruction sets ggml was built with."""

    binding: str
    features: tuple[str, ...]


class _Log:
    """Collects log lines from any native thread into the buffers that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: list[deque[LogLine]] = []
        self._level = 0
        self._echo = bool(os.environ.get("EDGESLM_NATIVE_LOG"))

    def write(self, level: int, text: bytes | None, _user_data: object) -> None:
        """Called by llama.cpp for every log event."""
        self._level = self._level if level == _LEVEL_CONTINUES else level
        line = (text or b"").decode("utf-8", "replace")
        if self._echo:
            sys.stderr.write(line)
        if self._level == _LEVEL_DEBUG:
            return
        with self._lock:
            for buffer in self._buffers:
                buffer.append(LogLine(self._level, line.rstrip("\n")))

    @contextmanager
    def captured(self) -> Iterator[deque[LogLine]]:
        """Collect the lines written while the block runs, the newest few hundred."""
        lines: deque[LogLine] = deque(maxlen=_KEPT_LINES)
        with self._lock:
            self._buffers.append(lines)
        try:
            yield lines
        finally:
            with self._lock:
                self._buffers = [buffer for buffer in self._buffers if buffer is not lines]


_log = _Log()


@cache
def library() -> Any:
    """The llama_cpp module, loaded and initialised at the first call.

    Raises:
        NativeFailure: the shared library is missing or cannot be loaded here.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise NativeFailure(
            f"llama.cpp cannot be loaded: {error}",
            hint="Reinstall llama-cpp-python for this machine; on Debian it needs libgomp1.",
        ) from error
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort must not start a debugger
    llama_cpp.llama_log_set(_callback(llama_cpp), None)
    llama_cpp.llama_backend_init()
    return llama_cpp


def load_bindings_only() -> None:
    """Have `library` do without the binding's high-level API, its chat templates and numpy.

    It saves 5 MB, and time. Only for processes of ours, the command line's and its children:
    elsewhere others may want the whole package.
    """
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.submodule_search_locations is None or "llama_cpp" in sys.modules:
        return
    package = ModuleType("llama_cpp")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    try:
        bindings = importlib.import_module("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError):
        del sys.modules["llama_cpp"]  # `library` says what is wrong
        return
    bindings.__version__ = _stated_version(Path(package.__path__[0]))  # type: ignore[attr-defined]
    sys.modules["llama_cpp"] = bindings


def _stated_version(folder: Path) -> str:
    """The version that the package in `folder` states in its `__init__`, which is not run."""
    try:
        stated = _VERSION.search((folder / "__init__.py").read_text(encoding="utf-8"))
    except OSError:
        stated = None
    return stated[1] if stated else "unknown"


@cache
def _callback(llama_cpp: Any) -> Any:
    """The log callback as a C function; cached so that it is never collected."""
    return llama_cpp.llama_log_callback(_log.write)


@cache
def ggml() -> CDLL:
    """libggml-base, for the calls that llama_cpp does not wrap.

    It is loaded by itself, in a fraction of the time that `library` takes.

    Raises:
        NativeFailure: the library is not where llama_cpp keeps it.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # as in `library`
    folder = _binding_folder() / "lib"
    for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
        if (folder / name).exists():
            return CDLL(str(folder / name))
    raise NativeFailure(
        f"no ggml-base library in {folder}", hint="Reinstall llama-cpp-python for this machine."
    )


def _binding_folder() -> Path:
    """Where llama_cpp lies; it is imported only if it cannot be found without."""
    if "llama_cpp" not in sys.modules:
        found = importlib.util.find_spec("llama_cpp")
        if found is not None and found.submodule_search_locations:
            return Path(found.submodule_search_locations[0])
    return Path(library().__file__).parent


def child_command(module: str) -> list[str]:
    """What starts a child process that runs a module of this room as a program.

    Nothing that happens to lie in the current folder is imported in its place.
    """
    code = (
        "import runpy, sys; sys.path[:] = filter(None, sys.path); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]


def child_environment() -> dict[str, str]:
    """The environment for such a child: it finds the modules that this process found."""
    return os.environ | {
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


@contextmanager
def signals_deferred() -> Iterator[list[int]]:
    """While the block runs, signals are only noted in the list; afterwards they take effect.

    Native code calls back into Python (the log, the abort question), and what a signal's
    handler raises in there is lost. Elsewhere than in the main thread nothing happens.
    """
    pending: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    handlers = {number: signal.getsignal(number) for number in _DEFERRED}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda noted, _frame: pending.append(noted))
    try:
        yield pending
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for number in pending:
            signal.raise_signal(number)


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what native code prints past its log while the block runs; the result gives it.

    Whatever else this process prints there meanwhile is kept too: only for short calls.
    """
    with tempfile.TemporaryFile() as kept:
        said = b""
        sys.stderr.flush()
        own = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield lambda: said.decode("utf-8", "replace")
        finally:
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            said = kept.read()


def captured_log() -> AbstractContextManager[deque[LogLine]]:
    """Collect the log lines written while the block runs.

    The callback is set anew each time: other users of llama_cpp in this process set theirs.
    """
    lib = library()
    lib.llama_log_set(_callback(lib), None)
    return _log.captured()


def reason(lines: deque[LogLine], default: str) -> str:
    """The first error llama.cpp logged, else its first warning, else `default`."""
    for level in (_LEVEL_ERROR, _LEVEL_WARN):
        for line in lines:
            if line.level == level and line.text.strip():
                return _without_function_name(line.text.strip())
    return default


def _without_function_name(text: str) -> str:
    """`text` without the `llama_model_load: ` that the log puts before a sentence."""
    head, separator, rest = text.partition(": ")
    return rest if separator and rest and " " not in head else text


@cache
def build_info() -> BuildInfo:
    """Version and CPU features of the loaded build."""
    lib = library()
    described = lib.llama_print_system_info().decode("utf-8", "replace")
    features = tuple(
        item.split("=")[0].strip()
        for item in described.replace("CPU :", "").split("|")
        if item.strip().endswith("= 1")
    )
    return BuildInfo(binding=str(lib.__version__), features=features)
