"""Another machine over the user's own OpenSSH client: their configuration, their keys.

Nothing is asked of a person (BatchMode), and all commands share one connection. Whose host keys
are right is OpenSSH's matter. However this process ends, the connection ends with it: a small shell
waits at a pipe that only this process holds open.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgeslm.errors import HostFailure, InvalidOption, NotFound

OF_SSH = 255
"""The exit status of ssh when it is ssh itself that failed, not the command there."""
_CONNECT_SECONDS = 15
_ASK_SECONDS = 60
_KEEP_SECONDS = 120
"""How long a connection that nobody uses stays, should the shell that ends it be killed too."""
_END = """
folder=$1
shift
cat >/dev/null
"$@"
rm -rf "$folder"
"""
_LONGEST_WORDS = 500
_LONGEST_FOLDER = 67
"""For a socket's path of 103 bytes (macOS), with what ssh and we put behind it."""


class Connection:
    """A connection to a machine, to be closed in the end.

    Args:
        address: "ssh://user@host:port", or a name of the user's ssh configuration.
        name: What the machine is called in messages.
        config: Another configuration for ssh than the user's.

    Raises:
        InvalidOption: ssh could take the address for something else.
        NotFound: there is no ssh here.
        HostFailure: the machine cannot be reached.
    """

    def __init__(self, address: str, name: str, config: Path | None = None) -> None:
        if not is_address(address):
            raise InvalidOption(
                f"no address for ssh: {address!r}", hint="Write ssh://user@host or a name."
            )
        if shutil.which("ssh") is None:
            raise NotFound("no ssh client on this machine", hint="Install OpenSSH's client.")
        self.name = name
        self.address = address
        self._config = config
        self._folder = _make_folder()
        end = [*self._ssh(), "-O", "exit", "--", self.address]
        self._end = subprocess.Popen(
            ["sh", "-c", _END, "edgeslm-ssh", str(self._folder), *end],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._end.communicate()

    def command(self, script: str) -> list[str]:
        """What runs a line of shell there."""
        return [*self._ssh(), "--", self.address, script]

    def ask(
        self, script: str, timeout_seconds: float = _ASK_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """The answer to a command there.

        Raises:
            HostFailure: the machine cannot be reached, or does not answer.
        """
        try:
            done = subprocess.run(
                self.command(script),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise self.unreachable("it does not answer") from error
        if done.returncode == OF_SSH:
            raise self.unreachable(done.stderr)
        return done

    def forward(self, here: int, there: int) -> None:
        """Have a port of this machine lead to one of that machine's own, until it is closed.

        Raises:
            HostFailure: it cannot be.
        """
        done = subprocess.run(
            [
                *(*self._ssh(), "-O", "forward"),
                *("-L", f"127.0.0.1:{here}:127.0.0.1:{there}", "--", self.address),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise HostFailure(
                f"{self.name}: ssh forwards no port: {last_line(done.stderr)}",
                hint=f"Try it by hand: ssh -L {here}:127.0.0.1:{there} {self.address}",
            )

    def is_open(self) -> bool:
        """Whether the connection still stands."""
        done = subprocess.run(
            [*self._ssh(), "-O", "check", "--", self.address],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode == 0

    def host(self) -> str:
        """The machine's name in the network, by ssh's configuration."""
        done = subprocess.run(
            [*self._ssh(), "-G", "--", self.address],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
        found = re.search(r"^hostname (\S+)$", done.stdout, re.MULTILINE)
        return found[1] if found else self.name

    def unreachable(self, words: str) -> HostFailure:
        """The error for what ssh said."""
        hint = f"Try it by hand: ssh {self.address} true"
        if "Permission denied" in words:
            hint = "Give it a key that works without a question: ssh-copy-id, or an agent."
        elif "Host key verification failed" in words:
            hint = f"Connect once by hand, and check its key: ssh {self.address}"
        said = last_line(words)
        return HostFailure(f"{self.name}: cannot be reached over ssh: {said}", hint=hint)

    def _connect(self) -> None:
        """Open the connection that all commands share."""
        with (self._folder / "words").open("w+") as words:  # the connection keeps it open
            try:
                code = subprocess.run(
                    [
                        *(*self._ssh(), "-M", "-N", "-f"),
                        *("-o", f"ControlPersist={_KEEP_SECONDS}", "--", self.address),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    check=False,
                    timeout=_ASK_SECONDS,
                ).returncode
            except subprocess.TimeoutExpired:
                code = OF_SSH
            words.seek(0)
            said = words.read()
        if code:
            raise self.unreachable(said)

    def _ssh(self) -> list[str]:
        return [
            "ssh",
            *(() if self._config is None else ("-F", str(self._config))),
            *("-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"),
            *("-o", f"ControlPath={self._folder}/s", "-o", "ServerAliveInterval=15"),
            "-T",
        ]


def is_address(text: str) -> bool:
    """Whether ssh can only take it for a destination: no option, no second word."""
    return re.fullmatch(r"(ssh://)?[^\s\-/][^\s/]*/?", text) is not None and text.isprintable()


def last_line(words: str) -> str:
    """The last line of what a program said."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1][:_LONGEST_WORDS] if lines else "no reason given"


def _make_folder() -> Path:
    """A folder for the connection's socket, whose path has to be short."""
    usual = os.fsencode(tempfile.gettempdir())
    place = None if len(usual) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108
    return Path(tempfile.mkdtemp(prefix="edgeslm-", dir=place))
