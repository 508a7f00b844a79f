"""A real registry on loopback, for the tests that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_WITH_PASSWORD = """\
auth:
  htpasswd: {{realm: tests, path: {folder}/passwords}}
"""
USER, PASSWORD = "tester", "open sesame"
_PASSWORDS = f"{USER}:$2y$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n"
"""As htpasswd -B writes it."""


def program() -> str | None:
    """The registry of Debian's package docker-registry, or of the project's own name."""
    return shutil.which("docker-registry") or shutil.which("registry")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, *, with_password: bool = False) -> Iterator[str]:
    """A registry that keeps its blobs in `folder`; its address.

    Args:
        folder: Created here.
        with_password: Whether it serves nobody but USER.
    """
    path, port = program(), free_port()
    assert path is not None
    folder.mkdir()
    config = folder / "config.yml"
    text = _CONFIG + (_WITH_PASSWORD if with_password else "")
    config.write_text(text.format(folder=folder, port=port))
    (folder / "passwords").write_text(_PASSWORDS)
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
    except HTTPError:  # it wants a password, so it is there
        return True
    except URLError:
        return False
