"""A real registry on loopback, for the tests that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def program() -> str | None:
    """The registry of Debian's package docker-registry, or of the project's own name."""
    return shutil.which("docker-registry") or shutil.which("registry")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A registry that keeps its blobs in `folder`; its address."""
    path, port = program(), free_port()
    assert path is not None
    folder.mkdir()
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(folder=folder, port=port))
    with subprocess.Popen(
        [path, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/v2/")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(address: str) -> None:
    for _ in range(200):
        if _answers(address):
            return
        time.sleep(0.05)
    raise TimeoutError(address)


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except URLError:
        return False
