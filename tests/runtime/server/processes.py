"""Servers as users start them: processes that listen at a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

OPTIONS = (
    *("--name", "tiny", "--context", "1024", "--slots", "3", "--queue", "4"),
    "--allow-grammars",
)


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)  # type: ignore[arg-type]

    def open_requests(self) -> int:
        with self.client() as client:
            text = client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("edgeslm_open_requests")]
        return sum(int(line.rpartition(" ")[2]) for line in lines)

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@contextmanager
def served(*models: Path, options: tuple[str, ...] = ()) -> Iterator[Served]:
    """A server that is stopped at the end, and has to end well."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgeslm", "serve", *map(str, models)),
            *("--port", "0", "--json", "--threads", "1", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "EDGESLM_API_KEY"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    try:
        yield Served(process, json.loads(line)["address"])
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "Traceback" not in said, said
    finally:
        process.kill()
        process.communicate()
