"""Commands as processes of their own, without paying for the start of Python each time.

A warm process has imported everything that commands import. For each command it is asked for it
forks, and the child is from there on what `python -m edgeslm` is: it has its own memory, files,
folder, environment, standard streams and exit code, and ends as Python ends.

    python tests/warm.py serve SOCKET            until standard input is closed
    python tests/warm.py call SOCKET ARG ...     edgeslm with these arguments, here
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STREAMS = 3
_LENGTH = struct.Struct("!I")
_NUMBER = struct.Struct("!i")
_PIPE_BYTES = 65536


class Warm:
    """A warm process; closing it ends it."""

    def __init__(self, address: str) -> None:
        import subprocess

        self.address = address
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_THREAD_LIMIT": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: str = "",
        cwd: str | os.PathLike[str] = ".",
        env: Mapping[str, str] = os.environ,
        timeout: float = 120,
    ) -> Any:
        """What `subprocess.run` gives for `python -m edgeslm` with these arguments."""
        import subprocess
        from tempfile import TemporaryFile

        assert len(stdin.encode()) < _PIPE_BYTES
        reading, writing = os.pipe()
        with TemporaryFile() as out, TemporaryFile() as err:
            os.write(writing, stdin.encode())
            os.close(writing)
            command = Command(self.address, arguments, str(Path(cwd).resolve()), env)
            try:
                command.start((reading, out.fileno(), err.fileno()))
            finally:
                os.close(reading)
            try:
                code = command.wait(timeout)
            except TimeoutError:
                command.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
        return subprocess.CompletedProcess(["edgeslm", *arguments], code, *texts)

    def shell_command(self) -> str:
        """What starts `edgeslm` from a shell; arguments may follow."""
        return shlex.join([sys.executable, "-IS", __file__, "call", self.address])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Command:
    """One command that a warm process runs for us."""

    def __init__(
        self, address: str, arguments: Sequence[str], cwd: str, env: Mapping[str, str]
    ) -> None:
        self._request = json.dumps([list(arguments), cwd, dict(env)]).encode()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._process = 0

    def start(self, streams: Sequence[int]) -> None:
        """Start it with these standard streams."""
        socket.send_fds(self._socket, [_LENGTH.pack(len(self._request))], streams)
        self._socket.sendall(self._request)
        self._process = _NUMBER.unpack(_receive(self._socket, _NUMBER.size))[0]

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, as `subprocess` gives it.

        Raises:
            TimeoutError: it still runs.
        """
        self._socket.settimeout(timeout)
        code: int = _NUMBER.unpack(_receive(self._socket, _NUMBER.size))[0]
        self._socket.close()
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self._process, number)


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the warm process has gone")
        data += part
    return data


def call(address: str, arguments: Sequence[str]) -> int:
    """Run a command with our folder, environment and streams; signals to end are passed on."""
    command = Command(address, arguments, str(Path.cwd()), os.environ)
    command.start(range(STREAMS))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: command.send_signal(number))
    code = command.wait()
    return code if code >= 0 else 128 - code


def serve(address: str) -> None:
    """Fork whenever asked; returns in the children, as the program that was asked for."""
    import select

    _import_everything()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        connection = listening.accept()[0]
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become_command(connection)
            return
        connection.close()


def _become_command(connection: socket.socket) -> None:
    """Fork once more: the parent says how the child ended, the child returns."""
    data, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, STREAMS)
    arguments, folder, environment = json.loads(_receive(connection, _LENGTH.unpack(data)[0]))
    child = os.fork()
    if child:
        for stream in (*range(STREAMS), *streams):
            os.close(stream)
        connection.sendall(_NUMBER.pack(child))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(_NUMBER.pack(code))
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update({"GGML_NO_BACKTRACE": "1"} | environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    _open_streams()


def _open_streams() -> None:
    """Ours know about the files that they were opened on; new ones, as Python opens them."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = os.fdopen(0, closefd=False)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            os.fdopen(number, "wb", 0 if unbuffered else -1, closefd=False),
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)


def _import_everything() -> None:
    import gc
    import importlib
    import pkgutil

    import edgeslm
    from edgeslm.llama.native import library

    for module in pkgutil.walk_packages(edgeslm.__path__, "edgeslm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    library()
    gc.freeze()


if __name__ == "__main__":
    if sys.argv[1] == "call":
        sys.exit(call(sys.argv[2], sys.argv[3:]))
    sys.path[0] = ""  # as with `python -m`
    serve(sys.argv[2])
    import runpy

    runpy.run_module("edgeslm", run_name="__main__", alter_sys=True)
