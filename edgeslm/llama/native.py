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
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ctypes import CDLL, c_char_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeslm.errors import NativeFailure
from edgeslm.llama.build_note import ensure_suited

_LEVEL_DEBUG = 1
_LEVEL_WARN = 3
_LEVEL_ERROR = 4
_LEVEL_CONTINUES = 5
_KEPT_LINES = 400
_VERSION = re.compile(r"""^__version__ = ["'](.+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class LogLine:
    """One line of llama.cpp's log; `level` as in ggml.h (1 debug .. 4 error)."""

    level: int
    text: str


@dataclass(frozen=True)
class BuildInfo:
    """What runs: the binding's version and the instruction sets ggml was built with.

    `commit` is that of llama.cpp's source, None where the build does not state it.
    """

    binding: str
    features: tuple[str, ...]
    commit: str | None = None


class _Log:
    """Collects log lines from any native thread into the buffers that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: list[deque[LogLine]] = []
        self.latest: deque[LogLine] = deque(maxlen=_KEPT_LINES)
        self.count = 0
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
            self.count += 1
            for buffer in (self.latest, *self._buffers):
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

    Unless somebody has imported the whole package, it is the bindings alone: without the high-level
    API above them, its caches and chat templates, which take longer to load and more memory.

    Raises:
        NativeFailure: the shared library is missing or cannot be loaded here.
    """
    try:
        ensure_suited(_binding_folder() / "lib")
        llama_cpp = sys.modules.get("llama_cpp") or _bindings()
    except (ImportError, OSError, RuntimeError) as error:
        raise NativeFailure(
            f"llama.cpp cannot be loaded: {error}",
            hint="Reinstall llama-cpp-python for this machine; on Debian it needs libgomp1.",
        ) from error
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort must not start a debugger
    llama_cpp.llama_log_set(_callback(llama_cpp), None)
    llama_cpp.llama_backend_init()
    return llama_cpp


def _bindings() -> ModuleType:
    """The package's module of bindings; who imports the package later gets all of it.

    Importing the module would import the package first, so an empty one stands in for it meanwhile.
    """
    package = ModuleType("llama_cpp")
    package.__path__ = [str(_binding_folder())]
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
            del sys.modules[name]


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
    try:
        folder = _binding_folder() / "lib"
    except ImportError as error:
        raise NativeFailure(str(error), hint="Install llama-cpp-python.") from error
    ensure_suited(folder)
    for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
        if (folder / name).exists():
            return CDLL(str(folder / name))
    raise NativeFailure(
        f"no ggml-base library in {folder}", hint="Reinstall llama-cpp-python for this machine."
    )


@cache
def _binding_folder() -> Path:
    """Where llama_cpp lies; nothing is imported for it.

    Raises:
        ImportError: nowhere.
    """
    found = importlib.util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        raise ImportError("llama-cpp-python is not installed")
    return Path(found.submodule_search_locations[0])


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


def log_mark() -> int:
    """How far the log is, for `log_since`; takes next to no time, unlike `captured_log`."""
    lib = library()
    lib.llama_log_set(_callback(lib), None)
    return _log.count


def log_since(mark: int) -> list[LogLine]:
    """The lines since then, the newest few hundred, from whatever thread."""
    new = _log.count - mark
    return list(_log.latest)[-new:] if new else []


def reason(lines: Iterable[LogLine], default: str) -> str:
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
    return BuildInfo(_version(), features, _commit())


def _commit() -> str | None:
    """The commit that ggml was built from, without a mark that its tree had been changed."""
    stated = getattr(ggml(), "ggml_commit", None)
    if stated is None:
        return None
    stated.restype = c_char_p
    found = re.match("[0-9a-f]{7,40}", (stated() or b"").decode("ascii", "replace"))
    return found[0] if found else None


def _version() -> str:
    """The binding's version, as the package states it in its first lines."""
    stated = _VERSION.search((_binding_folder() / "__init__.py").read_text("utf-8"))
    return stated[1] if stated else "unknown"
