"""A machine that is measured over ssh.

A model is copied once, under the name of its hash, and has that name only when its content has
been verified there.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgeslm import __version__
from edgeslm.errors import HostFailure, reading
from edgeslm.profiling.cooling import Reading
from edgeslm.profiling.jobs import watched_words
from edgeslm.profiling.matrix import HostEntry
from edgeslm.ssh import OF_SSH, Connection, last_line
from edgeslm.units import format_bytes

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
        self.name = entry.name
        self.identity = f"{entry.address}"
        self._entry = entry
        self._connection = Connection(f"{entry.address}", entry.name, entry.ssh_config)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def check(self) -> None:
        """Return if edgeslm is there, in this version.

        Raises:
            HostFailure: it is not.
        """
        program = self._entry.edgeslm
        done = self._connection.ask(f"{_words(program)} --version")
        said = done.stdout.split()
        if done.returncode or "edgeslm" not in said:
            raise HostFailure(
                f"{self.name}: no edgeslm there ({program}): {last_line(done.stderr)}",
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
        if self._connection.ask(f"sh -c {shlex.quote(_HAS)} has {file} {size}").returncode == 0:
            return file
        script = f"sh -c {shlex.quote(_PLACE)} place {_words(folder)} {name} {size} {digest}"
        with reading(model):
            content = model.open("rb")
        with content:
            done = subprocess.run(
                self._connection.command(script),
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
        return self._connection.command(watched_words(words))

    def read(self) -> Reading:
        """How warm and busy it is; nothing where it does not tell."""
        done = self._connection.ask(f"sh -c {shlex.quote(_READ)}")
        return parse_reading(done.stdout) if done.returncode == 0 else Reading(None, None)

    def _not_placed(
        self, model: Path, size: int, done: subprocess.CompletedProcess[str]
    ) -> HostFailure:
        if done.returncode == OF_SSH:
            return self._connection.unreachable(done.stderr)
        full = done.returncode == _NO_SPACE or "No space left" in done.stderr
        if full:
            free = last_line(done.stderr)
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
            f"{self.name}: cannot put {model.name} into {self._entry.folder}: "
            f"{last_line(done.stderr)}",
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
