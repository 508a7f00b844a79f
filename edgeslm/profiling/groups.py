"""Control groups with little memory, to run a program in, and what the kernel says of it after.

Version 1 has a group below our own. In version 2 a group has either programs or groups in it, so
it is one beside ours. Where the system lets us make neither, systemd makes one for users (a scope).
There is no swap in any of them. Everything in a group is ended with it, and the group is removed
whatever happens; one that a killed process left behind goes when the next is made.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeslm.errors import MeasurementFailure
from edgeslm.files import small_text
from edgeslm.targets.control_groups import control_groups

_NAME = "edgeslm-limit-"
_ENTER = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
_REMOVAL_SECONDS = 5.0
_SYSTEMD_SECONDS = 20
_GO_ON = "OOMPolicy=continue"
"""systemd would end all of a scope in which the kernel killed something: who copies figures too."""
_OWN_GROUP = """$root/sys/fs/cgroup$(sed -n 's/^0:://p' "$root/proc/self/cgroup")"""
_LIMIT_OF_SCOPE = f'root=$1; cat "{_OWN_GROUP}/memory.max" 2> /dev/null || true'
_SCOPE = f"""\
folder=$1 root=$2 late=; shift 2
"$@" &
job=$!
trap '(exec > /dev/null 2>&1; kill $job; sleep 8; kill -9 $job) & late=$!' TERM
wait $job; code=$?
while kill -0 $job 2> /dev/null; do wait $job; code=$?; done
test -z "$late" || kill $late 2> /dev/null
group="{_OWN_GROUP}"
for name in memory.peak memory.events memory.stat; do
  cat "$group/$name" > "$folder/$name" 2> /dev/null
done
exit $code
"""
"""When it is told to end, it ends its program first, and copies the figures all the same."""


@dataclass(frozen=True)
class GroupFigures:
    """What the kernel counted in a group; None where it does not tell. See `MemoryLimit`."""

    peak_bytes: int | None
    limit_hits: int | None
    oom_kills: int | None
    page_faults: int | None
    major_faults: int | None
    refaults: int | None


class Group(Protocol):
    """A control group that is there."""

    @property
    def kind(self) -> str:
        """Which kind it is, in words."""

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` in the group, joined before anything of it is run."""

    def figures(self) -> GroupFigures:
        """What was counted, after the command has ended."""


def read_figures(folder: Path) -> GroupFigures:
    """From the files of a group of either version."""
    stat = _fields(folder / "memory.stat")
    events = _fields(folder / "memory.events")
    kills = _fields(folder / "memory.oom_control").get("oom_kill", events.get("oom_kill"))
    hits = _number(folder / "memory.failcnt")
    peak = _number(folder / "memory.max_usage_in_bytes")
    return GroupFigures(
        peak_bytes=_number(folder / "memory.peak") if peak is None else peak,
        limit_hits=events.get("max") if hits is None else hits,
        oom_kills=kills,
        page_faults=stat.get("pgfault"),
        major_faults=stat.get("pgmajfault"),
        refaults=stat.get("workingset_refault_file", stat.get("workingset_refault")),
    )


@contextmanager
def limited_group(limit_bytes: int, root: Path = Path("/")) -> Iterator[Group]:
    """A group that may have `limit_bytes` of memory, while the block runs.

    Raises:
        MeasurementFailure: none can be made here.
    """
    reasons: list[str] = []
    with ExitStack() as stack:
        group = _folder_group(stack, limit_bytes, root, reasons)
        yield group if group is not None else _scope(stack, limit_bytes, root, reasons)


class FolderGroup:
    """A group that is a folder of our own making."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.kind = f"control group, version {version}"

    def command(self, command: Sequence[str]) -> list[str]:
        """A shell that joins and then becomes the command."""
        return ["sh", "-c", _ENTER, "sh", str(self.folder), *command]

    def figures(self) -> GroupFigures:
        """From its files."""
        return read_figures(self.folder)

    def remove(self) -> None:
        """End what still runs in it, and remove it; a kernel that is slow is waited for."""
        deadline = time.monotonic() + _REMOVAL_SECONDS
        while self.folder.is_dir():
            for line in small_text(self.folder / "cgroup.procs").split():
                with suppress(ProcessLookupError):
                    os.kill(int(line), signal.SIGKILL)
            with suppress(OSError):
                self.folder.rmdir()
                return
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


class Scope:
    """A scope of systemd's; its figures are copied before it is gone."""

    kind = "scope of systemd"

    def __init__(self, start: Sequence[str], folder: Path, root: Path) -> None:
        self._start = start
        self._folder = folder
        self._root = root

    def command(self, command: Sequence[str]) -> list[str]:
        """systemd-run with a shell that copies the figures when the command has ended."""
        script = ["sh", "-c", _SCOPE, "sh", str(self._folder), _prefix(self._root)]
        return [*self._start, *script, *command]

    def figures(self) -> GroupFigures:
        """From what was copied."""
        return read_figures(self._folder)


def _folder_group(
    stack: ExitStack, limit_bytes: int, root: Path, reasons: list[str]
) -> FolderGroup | None:
    for above, version in _places(root, reasons):
        _sweep(above)
        group = FolderGroup(above / f"{_NAME}{os.getpid()}", version)
        stack.callback(group.remove)
        group.remove()  # what is left of a killed process that had our number
        try:
            group.folder.mkdir()
            _limit(group.folder, version, limit_bytes)
            _try_to_join(group)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{above}: {getattr(error, 'strerror', None) or error}")
            group.remove()
            continue
        return group
    return None


def _places(root: Path, reasons: list[str]) -> Iterator[tuple[Path, int]]:
    """Where a group can be made: never above those that limit us, but for version 2's one step."""
    found = control_groups("memory", root)
    if not found:
        reasons.append("this system has no memory control groups")
    first = [group.folder for group in found if group.version == 1][:1]
    yield from ((folder, 1) for folder in first)
    for folder in [group.folder for group in found if group.version == 2][:2]:
        if "memory" in small_text(folder / "cgroup.subtree_control").split():
            yield folder, 2
        elif (folder / "cgroup.controllers").is_file():
            reasons.append(f"{folder}: groups below it cannot limit memory")


def _limit(folder: Path, version: int, limit_bytes: int) -> None:
    """Set the limit, and leave no swap."""
    if version == 2:
        _write(folder / "memory.max", f"{limit_bytes}")
        with suppress(FileNotFoundError):  # a kernel without swap
            _write(folder / "memory.swap.max", "0")
        return
    _write(folder / "memory.limit_in_bytes", f"{limit_bytes}")
    # No limit on memory and swap together: where there is one, the kernel counts no hits.
    with suppress(OSError):  # a kernel without swap
        _write(folder / "memory.swappiness", "0")


def _write(path: Path, text: str) -> None:
    """To a file of the kernel's, which is there or not, and is never made."""
    with path.open("r+", encoding="ascii") as file:
        file.write(text)


def _try_to_join(group: FolderGroup) -> None:
    done = subprocess.run(
        group.command(["true"]), capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise OSError(words[-1] if words else f"exit code {done.returncode}")


def _sweep(above: Path) -> None:
    """Remove the empty groups of processes that are no more."""
    for folder in above.glob(f"{_NAME}*"):
        number = folder.name.removeprefix(_NAME)
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            with suppress(OSError):
                folder.rmdir()


def _scope(stack: ExitStack, limit_bytes: int, root: Path, reasons: list[str]) -> Scope:
    """A scope of systemd's.

    Raises:
        MeasurementFailure: there is none either, or it limits nothing.
    """
    if shutil.which("systemd-run") is None:
        reasons.append("there is no systemd-run")
        raise _none_here(reasons)
    user = [] if os.geteuid() == 0 else ["--user"]
    unit = f"{_NAME}{os.getpid()}.scope"
    start = [
        *("systemd-run", *user, "--scope", "--quiet", "--collect", f"--unit={unit}"),
        *("-p", f"MemoryMax={limit_bytes}", "-p", "MemorySwapMax=0"),
    ]
    going_on = [*start, "-p", _GO_ON]
    try:
        done = _probe(going_on, root)
        if done.returncode == 0:
            start = going_on
        else:  # a version that does not know that of scopes, or something else
            done = _probe(start, root)
    except (OSError, subprocess.TimeoutExpired) as error:
        reasons.append(f"systemd-run: {error}")
        raise _none_here(reasons) from error
    if done.returncode != 0:
        reasons.append(f"systemd-run: {' '.join(done.stderr.split()) or 'it failed'}")
        raise _none_here(reasons)
    _require_limit(done.stdout.strip(), limit_bytes, reasons)
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    stack.callback(_stop, ["systemctl", *user, "stop", unit])
    return Scope(start, Path(folder), root)


def _probe(start: Sequence[str], root: Path) -> subprocess.CompletedProcess[str]:
    """Start a scope that prints its own limit; nothing where the kernel gives it none."""
    return subprocess.run(
        [*start, "sh", "-c", _LIMIT_OF_SCOPE, "sh", _prefix(root)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=_SYSTEMD_SECONDS,
    )


def _require_limit(told: str, limit_bytes: int, reasons: list[str]) -> None:
    """Return if the kernel holds a scope to the limit: systemd takes one that nothing keeps to.

    Raises:
        MeasurementFailure: it does not.
    """
    if told.isdecimal() and int(told) <= limit_bytes:
        return
    reasons.append(f"systemd's scopes do not limit memory: {told or 'no memory.max'}")
    raise _none_here(
        reasons,
        "Switch the kernel's memory controller on: cgroup_enable=memory in its command line, on a "
        "Raspberry Pi in /boot/firmware/cmdline.txt; then restart.",
    )


def _prefix(root: Path) -> str:
    """What stands before "/proc" in a shell's path."""
    return "" if root == Path("/") else str(root)


def _stop(command: Sequence[str]) -> None:
    """A scope ends with its last program; this is for one that was left in it."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, capture_output=True, check=False, timeout=_SYSTEMD_SECONDS)


def _none_here(
    reasons: Sequence[str],
    hint: str = "Run it as root, or as a user of a machine with systemd; in a container, give it "
    "control groups of its own.",
) -> MeasurementFailure:
    return MeasurementFailure(
        f"no control group with a memory limit can be made here ({'; '.join(reasons)})", hint=hint
    )


def _number(path: Path) -> int | None:
    text = small_text(path).strip()
    return int(text) if text.isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in small_text(path).splitlines())
    return {each[0]: int(each[1]) for each in pairs if len(each) == 2 and each[1].isdecimal()}
