"""A board that is asked, given files, and told what to run, over one connection.

Words of the board are shown to people and never run. Whatever is put into a line of shell is
quoted here.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edgeslm import progress
from edgeslm.errors import Failure, HostFailure, OutputFailure, reading
from edgeslm.flash.ssh import agent
from edgeslm.flash.ssh.board import Board, Rights, question, read_answer
from edgeslm.flash.ssh.cargo import Item
from edgeslm.flash.ssh.destination import Destination
from edgeslm.progress import Advance
from edgeslm.ssh import OF_SSH, Connection, last_line
from edgeslm.units import format_bytes

_PIECE_BYTES = 1 << 18
_LONG_SECONDS = 3600
_MOST_LINE, _MOST_LINES = 1000, 1000
_AGAIN = "Run it again: it goes on where it was."


class Device:
    """A board, connected; to be closed in the end.

    Attributes:
        notes: What was found there that its owner should know, a sentence each.

    Raises:
        HostFailure: it cannot be reached.
        Unsupported: it is no Linux with Python.
    """

    def __init__(self, destination: Destination, config: Path | None = None) -> None:
        self.destination = destination
        self.name = destination.name
        self.notes: list[str] = []
        self.connection = Connection(destination.address, destination.name, config)
        try:
            self.board = self.look()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def look(self) -> Board:
        """The board as it is now; kept in `board` too."""
        done = self.connection.ask(question(self.destination), timeout_seconds=300)
        if done.returncode:
            with suppress(HostFailure):  # what is no board at all says so
                read_answer(done.stdout, self.destination)
            raise self._failed(done.returncode, done.stderr)
        self.board = read_answer(done.stdout, self.destination)
        return self.board

    def call(self, action: str, **given: Any) -> str:
        """Have the board do one of the agent's actions, alone; what it printed.

        Raises:
            HostFailure, OutputFailure: it could not.
        """
        words = json.dumps({**given, "lock": self.board.lock})
        try:
            done = subprocess.run(
                self.connection.command(self._agent(action, "-")),
                input=words,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=_LONG_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise HostFailure(f"{self.name}: does not answer", hint=_AGAIN) from error
        if done.returncode:
            raise self._failed(done.returncode, done.stderr)
        return done.stdout.partition(f"{agent.BEGINNING}\n")[2]

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        held: bool = True,
        paused: Sequence[str] | None = None,
    ) -> str:
        """Have the board run a program; what it printed.

        Args:
            command: Its words.
            environment: Added to the usual one.
            held: Whether nobody else may change the board until it has ended, even if we have gone.
            paused: Words for the systemctl that stops the service meanwhile; None for none.
        """
        given = {"environment": environment or {}, "held": held, "paused": paused}
        return self.call("run", command=command, **given)

    def send(self, path: str, file: Path, size: int, digest: str, advance: Advance) -> int:
        """Have a file there, complete; how many bytes were sent.

        Args:
            path: There.
            file: Here.
            size: In bytes.
            digest: Its SHA-256.
            advance: Told of bytes that are there, sent now or before.

        Raises:
            HostFailure: the connection ended, or the file arrives damaged twice.
            OutputFailure: there is no room.
        """
        for attempt in (1, 2):
            code, sent, said = self._sent(path, file, size, digest, advance)
            if code == 0:
                return sent
            if code != agent.DAMAGED or attempt == 2:
                raise self._failed(code, said, file.name, size)
            advance(-size)
        raise AssertionError("unreachable")

    def send_items(self, items: Iterable[Item]) -> int:
        """Have files there as received, where a bundle is put together; how many bytes were sent.

        An interrupted one goes on where it ended.
        """
        wanted = list(items)
        folder = f"{self.board.received_folder}/blobs"
        sent = 0
        with progress.bar("sending", sum(item.bytes for item in wanted), unit="bytes") as advance:
            for item in wanted:
                path = f"{folder}/{item.sha256}"
                sent += self.send(path, item.path, item.bytes, item.sha256, advance)
        return sent

    def _sent(
        self, path: str, file: Path, size: int, digest: str, advance: Advance
    ) -> tuple[int, int, str]:
        given = {"path": path, "bytes": size, "sha256": digest, "lock": self.board.lock}
        line = self._agent("receive", json.dumps(given))
        with (
            reading(file),
            file.open("rb") as content,
            subprocess.Popen(
                self.connection.command(line),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            try:
                sent = _feed(process, content, size, advance)
                said = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
            except BaseException:
                process.kill()
                raise
        return process.returncode, sent, said

    def _agent(self, action: str, given: str) -> str:
        text = Path(agent.__file__).read_text(encoding="utf-8")
        sudo = "sudo -n " if self.board.rights is Rights.SUDO else ""
        python = self.board.pythons[max(self.board.pythons)]
        return f"{sudo}{shlex.join([python, '-I', '-S', '-c', text, action, given])}"

    def _failed(self, code: int, words: str, what: str = "", size: int = 0) -> Failure:
        if code == OF_SSH:
            found = self.connection.unreachable(words)
            return HostFailure(found.message, hint=_AGAIN)
        if code == agent.NO_SPACE:
            free = last_line(words)
            known = f", {format_bytes(int(free))} free" if free.isdecimal() else ""
            needed = f" for {what} ({format_bytes(size)}{known})" if what else ""
            return OutputFailure(f"{self.name}: no room{needed}", hint="Free some space there.")
        if code == agent.DAMAGED:
            return HostFailure(
                f"{self.name}: {what} arrived damaged", hint="Run it again; check the network."
            )
        said = {key: text for key, _, text in (line.partition(": ") for line in words.splitlines())}
        reason = said.get("error", last_line(words))[:_MOST_LINE]
        hint = said.get("hint", _AGAIN)[:_MOST_LINE]
        return HostFailure(f"{self.name}: {reason}", hint=hint)


def _first_line(output: IO[bytes]) -> bytes:
    """What the agent says first, whatever a shell said before."""
    for _ in range(_MOST_LINES):
        line = output.readline(_MOST_LINE)
        if not line or line.endswith(f"{agent.BEGINNING}\n".encode()):
            break
    return output.readline(_MOST_LINE)


def _feed(process: subprocess.Popen[bytes], content: IO[bytes], size: int, advance: Advance) -> int:
    """Send what the other end lacks; how many bytes that was."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101  pipes
    try:
        have = min(max(int(json.loads(_first_line(process.stdout))["have"]), 0), size)
    except (ValueError, TypeError, KeyError):  # it says why on stderr
        process.stdin.close()
        return 0
    advance(have)
    content.seek(have)
    sent = 0
    with suppress(BrokenPipeError):  # it says why on stderr
        while sent < size - have and (piece := content.read(min(_PIECE_BYTES, size - have - sent))):
            process.stdin.write(piece)
            sent += len(piece)
            advance(len(piece))
        process.stdin.flush()
    with suppress(BrokenPipeError):
        process.stdin.close()
    return sent
