"""From a board and what is carried to it, to what is left to do; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeslm.bundle.names import SIGNATURE_NAME
from edgeslm.bundle.runtimes import Runtime, RuntimeList
from edgeslm.errors import NotFound, OutputFailure, Unsupported
from edgeslm.flash import places
from edgeslm.flash.plan import Plan, Step
from edgeslm.flash.service import Service, command, unit
from edgeslm.flash.ssh.board import OLDEST_PYTHON, Board, Rights
from edgeslm.flash.ssh.cargo import Cargo, Item
from edgeslm.flash.ssh.destination import Destination
from edgeslm.flash.wheels.install import choose
from edgeslm.flash.wheels.tags import Device, numbers
from edgeslm.units import format_bytes

_SPARE_BYTES = 32 << 20
_ASKING_BYTES = 256 << 20
"""What asking a model takes beside its file: the context, Python."""
_UNPACKED = 4
"""How much larger wheels are once they are unpacked and compiled, at most; llama.cpp's are 3."""


@dataclass(frozen=True)
class Chosen:
    """The runtime for a board, and the Python there that starts it."""

    runtime: Runtime
    python: str


@dataclass(frozen=True)
class Work:
    """What is left to do, in this order.

    Attributes:
        plan: The same for people.
        account: Whether the service's account has to be made.
        send: What the board lacks; it may be built there from less (`deltas`).
        keys: Keys to trust that it lacks.
        install: The runtime that has to be unpacked or made the current one.
        receive: Whether the bundle has to be put into the store.
        activate: Whether it has to become the current one there.
        unit: The text of the unit file, where that is not there.
        start: Whether the service has to be enabled and restarted.
        service: What is served, and where.
        tidy: Whether anything that was received is left over then.
        pause: Whether the service has to be stopped while the bundle is asked to answer.
        again: Whether a bundle is tried once more that has not passed its check there.
    """

    plan: Plan
    service: Service
    account: bool = False
    send: tuple[Item, ...] = ()
    keys: Mapping[str, str] | None = None
    install: Chosen | None = None
    receive: bool = False
    activate: bool = False
    unit: str | None = None
    start: bool = False
    tidy: bool = False
    pause: bool = False
    again: bool = False

    @property
    def nothing(self) -> bool:
        """Whether the board is as it should be already."""
        return not self.plan.steps


def plan_ssh(destination: Destination, cargo: Cargo, board: Board, service: Service) -> Work:
    """What is left to do.

    Args:
        destination: As the user named it.
        cargo: What is carried.
        board: As it is now.
        service: Port, address and the like; where it lies is set here.

    Raises:
        Unsupported, NotFound: nothing that is there or brought along can run on the board.
        OutputFailure: it has no room.
    """
    _ensure_reachable(destination, board)
    served = settled(service, board, trusts=bool(cargo.keys or board.keys))
    chosen = choose_runtime(destination, cargo, board)
    install = chosen is not None and chosen.runtime.id != board.looked.runtime
    receive = cargo.version not in board.looked.versions or not _is_signed(cargo, board)
    unpack = chosen is not None and chosen.runtime.id not in board.looked.runtimes
    send = tuple(_lacking(cargo, board, chosen if unpack else None, receive=receive))
    text = unit(served)
    write = board.looked.systemd and text != board.looked.unit
    keys = {n: text for n, text in cargo.keys.items() if _differs(text, board.keys.get(n))}
    work = Work(
        Plan(destination.named, cargo.named, f"sha256:{cargo.digest}", (), _notes(board, served)),
        served,
        account=board.looked.systemd and served.account == places.USER and not board.looked.account,
        send=send,
        keys=keys,
        install=chosen if install else None,
        receive=receive,
        activate=cargo.version != board.current,
        unit=text if write else None,
        tidy=board.looked.left_over or receive or unpack or board.unfinished,
    )
    work = replace(work, pause=work.activate and board.looked.active and not _both(cargo, board))
    restart = work.activate or receive or install or bool(keys) or write or board.unfinished
    idle = not (board.looked.enabled and board.looked.active)
    work = replace(work, start=board.looked.systemd and (restart or idle))
    _ensure_room(destination, board, send, chosen if unpack else None, cargo)
    return replace(work, plan=replace(work.plan, steps=tuple(_steps(work, board, cargo))))


def _is_signed(cargo: Cargo, board: Board) -> bool:
    """Whether the board's version has what there is of a signature.

    Where no key is known its store keeps the signature that it has, so another is not sent again.
    """
    signature = cargo.files.get(SIGNATURE_NAME)
    there = board.signatures.get(cargo.version)
    if signature is None or signature.sha256 == there:
        return True
    return bool(there) and not (cargo.keys or board.keys)


def _both(cargo: Cargo, board: Board) -> bool:
    """Whether memory has room for what is asked to answer beside what is served."""
    if board.looked.available_bytes is None:
        return False
    asked = sum(item.bytes for item in cargo.blobs)
    served = max(board.stored.values(), default=0)  # its pages count as available, but are in use
    return asked + served + _ASKING_BYTES <= board.looked.available_bytes


def _ensure_reachable(destination: Destination, board: Board) -> None:
    if board.prefix and board.account == places.USER and board.looked.closed is not None:
        raise Unsupported(
            f"{destination.name}: the service's account cannot enter {board.looked.closed}, and "
            "root does not serve",
            hint="Name another folder, or none.",
        )


def settled(service: Service, board: Board, *, trusts: bool) -> Service:
    """A service as it is on that board."""
    return replace(service, root=board.looked.root, account=board.account, trusts=trusts)


def choose_runtime(destination: Destination, cargo: Cargo, board: Board) -> Chosen | None:
    """The runtime for the newest of the board's Pythons that there is one for.

    Returns:
        None where nothing is brought along and the board has one.

    Raises:
        NotFound: nothing is brought along, and the board has none.
        Unsupported: what is brought along does not run there.
    """
    if cargo.runtimes is None:
        if board.looked.runtime in board.looked.runtimes:
            return None
        raise NotFound(
            f"{cargo.named}: brings no runtime, and {destination.name} has none",
            hint="Make one: edgeslm wheels --target BOARD -o DIR, then flash with --runtime DIR",
        )
    pythons = sorted((each for each in board.pythons if each >= OLDEST_PYTHON), reverse=True)
    if not pythons:
        raise Unsupported(
            f"{destination.name}: its newest Python is {'.'.join(map(str, max(board.pythons)))}",
            hint=f"The runtime needs {'.'.join(map(str, OLDEST_PYTHON))}: use a newer system.",
        )
    having = {numbers(each.python) for each in cargo.runtimes.runtimes}
    suited = [each for each in pythons if each in having] or pythons
    found = choose(cargo.runtimes, _device(board, suited[0]))
    return Chosen(found, board.pythons[suited[0]])


def _device(board: Board, python: tuple[int, int]) -> Device:
    glibc = None if board.looked.glibc is None else numbers(board.looked.glibc)
    features = frozenset(board.looked.features) or None
    return Device(board.looked.architecture, python, glibc, features)


def _lacking(cargo: Cargo, board: Board, chosen: Chosen | None, *, receive: bool) -> list[Item]:
    """What has to be sent: of the bundle and of the runtime, each file once."""
    wanted: dict[str, Item] = {}
    if receive:
        wanted.update({item.sha256: item for item in cargo.items})
    if chosen is not None and cargo.runtimes is not None:
        wanted.update({item.sha256: item for item in items_of(cargo, cargo.runtimes, chosen)})
    there = {**board.stored, **board.received}
    return [item for item in wanted.values() if there.get(item.sha256) != item.bytes]


def items_of(cargo: Cargo, runtimes: RuntimeList, chosen: Chosen) -> list[Item]:
    """The files that the installer needs for a runtime."""
    digests = [wheel.sha256 for wheel in runtimes.wheels_of(chosen.runtime)]
    return [cargo.runtime_items[each] for each in (*digests, cargo.runtime_list or "")]


def _differs(text: str, digest: str | None) -> bool:
    return hashlib.sha256(text.encode()).hexdigest() != digest


def _ensure_room(
    destination: Destination,
    board: Board,
    send: tuple[Item, ...],
    chosen: Chosen | None,
    cargo: Cargo,
) -> None:
    needed = sum(item.bytes for item in send)  # the store takes them over
    if chosen is not None and cargo.runtimes is not None:
        wheels = cargo.runtimes.wheels_of(chosen.runtime)
        needed += _UNPACKED * sum(wheel.bytes for wheel in wheels)
    if needed and needed + _SPARE_BYTES > board.looked.free_bytes:
        raise OutputFailure(
            f"{destination.name}: no room: {format_bytes(board.looked.free_bytes)} free below "
            f"{board.looked.root}, {format_bytes(needed + _SPARE_BYTES)} needed",
            hint="Free some space there, or name a folder of a larger disk: ssh://HOST/FOLDER",
        )


def _steps(work: Work, board: Board, cargo: Cargo) -> list[Step]:
    count = sum(item.bytes for item in work.send)
    total = sum(item.bytes for item in cargo.items)
    steps = []
    if work.account:
        steps.append(Step(f"make the account {places.USER}, which nobody can log in to"))
    if work.send:
        less = ", or only what changed in them" if work.receive and board.looked.versions else ""
        what = f"send {len(work.send)} files{less}; the bundle has {format_bytes(total)}"
        steps.append(Step(what, count))
    if work.keys:
        steps.append(Step(f"trust only bundles signed with {', '.join(work.keys)} there"))
    if work.install is not None:
        runtime = work.install.runtime
        steps.append(
            Step(
                f"unpack the runtime {runtime.id} ({runtime.march}, Python {runtime.python}) "
                f"into {board.path(places.OPT)}"
            )
        )
    if work.receive:
        steps.append(Step(f"verify the bundle there, and put it into {board.path(places.STORE)}"))
    if work.activate:
        meanwhile = " (the service is stopped meanwhile, for want of memory)" if work.pause else ""
        steps.append(Step(f"check that it answers there{meanwhile}, and make it the current one"))
    if work.unit is not None:
        steps.append(Step(f"write {board.unit_file}"))
    if work.start:
        steps.append(Step(f"enable and restart {places.SERVICE}, and wait until it answers"))
    if work.tidy and not steps:
        steps.append(Step("remove what an interrupted flash left behind"))
    return steps


def _notes(board: Board, service: Service) -> tuple[str, ...]:
    notes = []
    if board.alone and not board.prefix:
        notes.append(
            f"There is no sudo without a password, so all of it goes into {board.looked.root}."
        )
    if board.rights is Rights.NONE and board.looked.systemd:
        notes.append("The user's own systemd starts it.")
    if not board.looked.systemd:
        notes.append(f"No systemd runs there; start it with: {' '.join(command(service))}")
    return tuple(notes)
