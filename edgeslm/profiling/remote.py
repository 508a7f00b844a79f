"""A machine that is measured over the user's own OpenSSH client: their configuration, their keys.

Nothing is asked of a person (BatchMode), and all commands share one connection. A model is copied
once, under the name of its hash, and has that name only when its content has been verified there.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeslm import __version__
from edgeslm.errors import HostFailure, NotFound, reading
from edgeslm.profiling.cooling import Reading
from edgeslm.profiling.jobs import watched_words
from edgeslm.profiling.matrix import HostEntry
from edgeslm.units import format_bytes

_CONNECT_SECONDS = 15
_ASK_SECONDS = 60
_KEEP_SECONDS = 600
_OF_SSH = 255
_NO_SPACE, _DAMAGED = 28, 66
_PLACE = """
set -eu
folder=$1 name=$2 size=$3 sum=$4
mkdir -p "$folder"
free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
if [ "$free" -lt $((size / 1024 + 1024)) ]; then
    echo "$free" >&2
    exit 28
fi
part=$folder/.$name.part
trap 'rm -f "$part"' EXIT
cat >"$part"
found=$( (sha256sum "$part" 2>/dev/null || shasum -a 256 "$part") | cut -d ' ' -f 1)
[ "$found" = "$sum" ] || exit 66
mv "$part" "$folder/$name"
"""
_HAS = '[ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$2" ]'
_READ = """
cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null
echo --
grep '^cpu[0-9]' /proc/stat
echo --
sleep 1
grep '^cpu[0-9]' /proc/stat
"""
_HERTZ = 100
"""Ticks per second in /proc/stat, on every Linux that people run."""


class RemoteHost:
    """A connection to `entry`, to be closed in the end.

    Raises:
        NotFound: there is no ssh here.
        HostFailure: the machine cannot be reached.
    """

    def __init__(self, entry: HostEntry) -> None:
        if shutil.which("ssh") is None:
            raise NotFound("no ssh client on this machine", hint="Install OpenSSH's client.")
        self.name = entry.name
        self.identity = f"{entry.address}"
        self._entry = entry
        self._folder = Path(tempfile.mkdtemp(prefix="edgeslm-"))
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        subprocess.run(
            [*self._ssh(), "-O", "exit", *self._destination()],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Return if edgeslm is there, in this version.

        Raises:
            HostFailure: it is not.
        """
        program = self._entry.edgeslm
        done = self._ask(f"{_words(program)} --version")
        said = done.stdout.split()
        if done.returncode or "edgeslm" not in said:
            raise HostFailure(
                f"{self.name}: no edgeslm there ({program}): {_last(done.stderr)}",
                hint=f"Install it there, or say where it is: hosts.{self.name}.edgeslm in the "
                "matrix.",
            )
        version = said[-1]
        if version != __version__:
            raise HostFailure(
                f"{self.name}: edgeslm {version} there, {__version__} here",
                hint="Install the same version on both, so that figures compare.",
            )

    def place(self, model: Path, digest: str) -> str:
        """Have the model there; the words by which a shell there finds it.

        Args:
            model: A GGUF file here.
            digest: Its SHA-256.

        Raises:
            HostFailure: it cannot be copied, or arrived damaged.
            EdgeslmError: it cannot be read here.
        """
        folder, name = self._entry.folder, f"{digest}.gguf"
        with reading(model):
            size = model.stat().st_size
        file = _words(f"{folder}/{name}")
        if self._ask(f"sh -c {shlex.quote(_HAS)} has {file} {size}").returncode == 0:
            return file
        script = f"sh -c {shlex.quote(_PLACE)} place {_words(folder)} {name} {size} {digest}"
        with reading(model):
            content = model.open("rb")
        with content:
            done = subprocess.run(
                [*self._ssh(), *self._destination(), script],
                stdin=content,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        if done.returncode:
            raise self._not_placed(model, size, done)
        return file

    def command(self, arguments: Sequence[str], file: str) -> list[str]:
        """What runs `edgeslm profile FILE ...` there; it ends when its input is closed here."""
        words = f"{_words(self._entry.edgeslm)} profile {file} {shlex.join(arguments)}"
        return [*self._ssh(), *self._destination(), watched_words(words)]

    def read(self) -> Reading:
        """How warm and busy it is; nothing where it does not tell."""
        done = self._ask(f"sh -c {shlex.quote(_READ)}")
        return parse_reading(done.stdout) if done.returncode == 0 else Reading(None, None)

    def _connect(self) -> None:
        """Open the connection that all commands share."""
        with (self._folder / "words").open("w+") as words:  # the connection keeps it open
            try:
                code = subprocess.run(
                    [
                        *(*self._ssh(), "-M", "-N", "-f"),
                        *("-o", f"ControlPersist={_KEEP_SECONDS}"),
                        *self._destination(),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    check=False,
                    timeout=_ASK_SECONDS,
                ).returncode
            except subprocess.TimeoutExpired:
                code = _OF_SSH
            words.seek(0)
            said = words.read()
        if code:
            raise self._unreachable(said)

    def _ssh(self) -> list[str]:
        config = self._entry.ssh_config
        return [
            "ssh",
            *(() if config is None else ("-F", str(config))),
            *("-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"),
            *("-o", f"ControlPath={self._folder}/s", "-o", "ServerAliveInterval=15"),
            "-T",
        ]

    def _destination(self) -> list[str]:
        return ["--", f"{self._entry.address}"]

    def _ask(self, script: str) -> subprocess.CompletedProcess[str]:
        """The answer to a short command there.

        Raises:
            HostFailure: the machine cannot be reached, or does not answer.
        """
        try:
            done = subprocess.run(
                [*self._ssh(), *self._destination(), script],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=_ASK_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise self._unreachable("it does not answer") from error
        if done.returncode == _OF_SSH:
            raise self._unreachable(done.stderr)
        return done

    def _unreachable(self, words: str) -> HostFailure:
        said, hint = _last(words), f"Try it by hand: ssh {self._entry.address} true"
        if "Permission denied" in words:
            hint = "Give it a key that works without a question: ssh-copy-id, or an agent."
        elif "Host key verification failed" in words:
            hint = f"Connect once by hand, and check its key: ssh {self._entry.address}"
        return HostFailure(f"{self.name}: cannot be reached over ssh: {said}", hint=hint)

    def _not_placed(
        self, model: Path, size: int, done: subprocess.CompletedProcess[str]
    ) -> HostFailure:
        if done.returncode == _OF_SSH:
            return self._unreachable(done.stderr)
        full = done.returncode == _NO_SPACE or "No space left" in done.stderr
        if full:
            free = _last(done.stderr)
            known = f", {format_bytes(1024 * int(free))} free" if free.isdecimal() else ""
            return HostFailure(
                f"{self.name}: no room for {model.name} ({format_bytes(size)}{known})",
                hint=f"Free some space there, or name another hosts.{self.name}.folder.",
            )
        if done.returncode == _DAMAGED:
            return HostFailure(
                f"{self.name}: {model.name} arrived damaged",
                hint="Run it again; check the network.",
            )
        return HostFailure(
            f"{self.name}: cannot put {model.name} into {self._entry.folder}: {_last(done.stderr)}",
            hint=f"Name another folder: hosts.{self.name}.folder in the matrix.",
        )


def parse_reading(text: str) -> Reading:
    """Temperatures in thousandths of a degree, ticks of each core, ticks later; "--" between."""
    parts = [part.split("\n") for part in text.split("--\n")]
    if len(parts) != 3:
        return Reading(None, None)
    degrees = [int(line) / 1000 for line in parts[0] if line.strip().lstrip("-").isdecimal()]
    likely = [each for each in degrees if -30 < each < 150]
    before, after = _busy(parts[1]), _busy(parts[2])
    busy = None if before is None or after is None else max(0.0, (after - before) / _HERTZ)
    return Reading(max(likely, default=None), busy)


def _busy(lines: Sequence[str]) -> int | None:
    """Ticks in which a core was not idle, of all cores."""
    total = 0
    known = [line for line in lines if line.strip()]
    for line in known:
        fields = line.split()[1:9]
        if len(fields) < 5 or not all(field.isdecimal() for field in fields):
            return None
        user, nice, system, _idle, _waiting, *rest = map(int, fields)
        total += user + nice + system + sum(rest)
    return total if known else None


def _words(path: str) -> str:
    """A path as a shell there takes it; "~/" is the home folder there."""
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(path)


def _last(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
