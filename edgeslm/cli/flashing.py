"""Where a bundle is flashed to decides how: one function for each kind of destination."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeslm.cli import flash_base, output
from edgeslm.cli.flash_told import Told, settings_of
from edgeslm.errors import InvalidOption, reading
from edgeslm.files import atomic_path, scratch_folder, sha256
from edgeslm.records import FLASH_SCHEMA, to_json
from edgeslm.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgeslm.flash.devices import Device
    from edgeslm.flash.image.making import Made
    from edgeslm.flash.image.settings import Settings
    from edgeslm.flash.plan import Plan, Report

EXPLANATION = (
    "Where to is said with --to DEST:",
    "  --to board.img --base raspios.img.xz   a new image: Raspberry Pi OS with the model in it",
    "  --to board.img --base debian           the same from Debian's packages, for other boards",
    "  --to /dev/NAME                         a card or a stick, from an image or with --base;",
    "                                         edgeslm flash --list shows which there are",
    "  --to /media/card                       files in a folder, beside a system that is there",
    "  --to ssh://user@host[:port][/folder]   a board that runs",
    "With --dry-run it only says what it would do.",
)
_IMAGES = (".img", ".img.xz", ".img.gz")


@dataclass(frozen=True)
class OverSsh:
    """What is only for boards that run, as it was typed."""

    open_chat: bool = False
    status: bool = False
    rollback: bool = False
    uninstall: bool = False
    keep_models: bool = False
    again: bool = False
    config: Path | None = None


@dataclass(frozen=True)
class Wanted:
    """What was typed, but for the destination."""

    bundle: Path | None
    told: Told = field(default_factory=Told)
    base: Path | None = None
    runtime: Path | None = None
    trust: tuple[Path, ...] = ()
    dry_run: bool = False
    yes: bool = False
    port: int | None = None
    imager_json: str | None = None
    json: bool = False
    over_ssh: OverSsh = OverSsh()


def carry(wanted: Wanted, to: str) -> None:
    """Flash, or show what would be done.

    Raises:
        EdgeslmError: the destination is of no kind that is known, or it failed.
    """
    if wanted.over_ssh != OverSsh() and not _is_board(to):
        raise InvalidOption(
            "--open, --status, --rollback, --uninstall, --keep-models, --again and --ssh-config "
            "are for boards over ssh",
            hint="Use --to ssh://USER@HOST, or leave them out.",
        )
    with reading(Path(to)):
        handle = next((handle for fits, handle in DESTINATIONS if fits(to)), None)
    if handle is None:
        raise InvalidOption(
            f"not a destination: {to}",
            hint="Name a new image (board.img), a disk (/dev/NAME), a folder that is there, or "
            "ssh://USER@HOST.",
        )
    handle(wanted, to)


def show_disks(json: bool) -> None:
    """The disks of this machine, and why some cannot be written."""
    from edgeslm.flash.devices import list_devices

    found = list_devices()
    if json:
        output.print_json({"schema": FLASH_SCHEMA, "devices": to_json(found)})
        return
    rows = [
        (
            str(device.path),
            format_bytes(device.bytes) if device.bytes else "empty",
            device.model,
            device.transport,
            "removable" if device.removable else "built in",
            _state(device),
        )
        for device in found
    ]
    if rows:
        output.print_table(rows, header=("disk", "size", "model", "on", "kind", "use"))
    else:
        print("no disks")


def _state(device: Device) -> str:
    if device.system:
        return "this system runs from it"
    if device.mounted:
        return f"mounted at {', '.join(device.mounted)}"
    return ", ".join(device.uses) or ("write-protected" if device.read_only else "free")


def _to_image(wanted: Wanted, to: str) -> None:
    target = Path(to)
    settings = settings_of(wanted.told)
    _ensure_new(target, _base(wanted), wanted)
    if wanted.imager_json is not None:
        from edgeslm.flash.image.imager import ensure_address

        ensure_address(wanted.imager_json)
    base = _base_at_hand(wanted, to)
    if base is None:
        return
    with ExitStack() as stack:
        job, make = _prepared(wanted, stack, base, settings, to, target)
        if _shown(wanted, job.plan):
            return
        made = make(target)
    notes = (*made.report.notes, *flash_base.notes_of(_base(wanted)))
    made = replace(made, report=replace(made.report, notes=notes))
    more = _list_for_imager(wanted, target, made, settings)
    how = f"Write it to a card: edgeslm flash {target} --to /dev/NAME (edgeslm flash --list)."
    _tell(wanted, replace(made.report, notes=(how, *made.report.notes)), more)


def _to_device(wanted: Wanted, to: str) -> None:
    from edgeslm.flash import block_device
    from edgeslm.flash.devices import ensure_allowed, ensure_same, find_device

    device = find_device(Path(to))
    ensure_allowed(device, 0)
    named = bundle_of(wanted)
    with ExitStack() as stack:
        if _is_image(named) and wanted.base is None:
            refuse(wanted, "an image that is written as it is", *_OF_BOARDS, *_FOR_SERVING)
            job = _as_it_is(named, to)
        else:
            refuse(wanted, "a disk", "--imager-json")
            settings = settings_of(wanted.told)
            base = _base_at_hand(wanted, to)
            if base is None:
                return
            job, _ = _prepared(wanted, stack, base, settings, to, scratch())
        what, image = device.describe(), "the image" if job.make else str(named)
        writing = block_device.plan_device(to, what, image, "", job.image_bytes)
        plan = replace(
            job.plan, steps=job.plan.steps + writing.steps, notes=job.plan.notes + writing.notes
        )
        if _shown(wanted, plan):
            return
        ensure_allowed(device, job.image_bytes or 0)
        _confirm(device, wanted)
        path, made = named, None
        if job.make is not None:
            path = stack.enter_context(scratch_folder(scratch())) / "board.img"
            made = job.make(path)
        found = find_device(Path(to))  # asking, and making the image, took its time
        ensure_same(device, found)
        ensure_allowed(found, path.stat().st_size)
        report = block_device.write_device(plan, path, found.path, meant=found)
    if made is not None:
        notes = (*report.notes, *made.report.notes)
        report = replace(report, address=made.report.address, notes=notes)
    _tell(wanted, report)


def _to_directory(wanted: Wanted, to: str) -> None:
    from edgeslm.flash import directory
    from edgeslm.flash.carried import opened
    from edgeslm.flash.runtimes import find_runtimes

    refuse(wanted, "a folder", *_OF_BOARDS, "--port", "--trust")
    with (
        opened(bundle_of(wanted), scratch()) as carried,
        scratch_folder(scratch()) as folder,
    ):
        brought = None
        if carried.has_runtimes or wanted.runtime is not None:
            brought = find_runtimes(carried.folder, wanted.runtime)
        tree = directory.tree_for(carried, brought, folder)
        place = directory.look(Path(to))
        plan = directory.plan_directory(carried, place, tree)
        if _shown(wanted, plan):
            return
        report = directory.write_directory(plan, place, tree)
    _tell(wanted, report)


def _is_board(to: str) -> bool:
    return to.startswith("ssh://")


def _to_board(wanted: Wanted, to: str) -> None:
    from edgeslm.cli import flash_ssh

    refuse(wanted, "a board over ssh", *_OF_BOARDS)
    flash_ssh.to_board(wanted, to)


DESTINATIONS: tuple[tuple[Callable[[str], bool], Callable[[Wanted, str], None]], ...] = (
    (_is_board, _to_board),
    (lambda to: to.startswith("/dev/") or Path(to).is_block_device(), _to_device),
    (lambda to: Path(to).is_dir(), _to_directory),
    (lambda to: to.endswith(".img"), _to_image),
)
"""The kinds of destinations, in the order in which they are tried."""


@dataclass(frozen=True)
class _Job:
    """An image that will be written.

    Attributes:
        plan: What is done until it is there.
        image_bytes: Its size, about; None where nobody knows yet.
        make: What writes it to a path; None where it is there.
    """

    plan: Plan
    image_bytes: int | None
    make: Callable[[Path], Made | None] | None


def _prepared(
    wanted: Wanted, stack: ExitStack, base: Path, settings: Settings, to: str, beside: Path
) -> tuple[_Job, Callable[[Path], Made]]:
    """An image that is made from a base; the bundle stays at hand as long as the stack."""
    from edgeslm.flash.carried import Load, opened
    from edgeslm.flash.image import making
    from edgeslm.flash.runtimes import find_runtimes
    from edgeslm.flash.service import Service

    served = Service() if wanted.port is None else Service(port=wanted.port)
    carried = stack.enter_context(opened(bundle_of(wanted), beside, wanted.trust))
    brought = find_runtimes(carried.folder, wanted.runtime)
    served = replace(served, most_bytes=carried.free_bytes)
    load = Load(carried, brought, served, wanted.trust)
    known = making.facts(base, load)
    plan = making.plan_image(to, carried, str(base), known, settings)

    def make(target: Path) -> Made:
        return making.make_image(plan, base, target, load, settings)

    return _Job(plan, known.image_bytes, make), make


def _as_it_is(image: Path, to: str) -> _Job:
    """An image that is written as it is, once it is unpacked."""
    from edgeslm.flash.image.sparse import COMPRESSED, unpack, unpacked_bytes
    from edgeslm.flash.plan import Plan, Step
    from edgeslm.progress import bar

    size = unpacked_bytes(image)
    if image.suffix not in COMPRESSED:
        return _Job(Plan(to, str(image), "", ()), size, None)

    def make(target: Path) -> None:
        target.touch()
        with bar(f"unpacking {image}", image.stat().st_size, unit="bytes") as advance:
            unpack(image, target, advance)

    return _Job(Plan(to, str(image), "", (Step(f"unpack {image}", size or 0),)), size, make)


def scratch() -> Path:
    """What large temporary files are put beside: $TMPDIR says where that is."""
    return Path(tempfile.gettempdir()) / "edgeslm"


def _is_image(path: Path) -> bool:
    return path.name.endswith(_IMAGES)


def bundle_of(wanted: Wanted) -> Path:
    """The bundle that was named.

    Raises:
        InvalidOption: none was.
    """
    if wanted.bundle is None:
        raise InvalidOption("flash needs a bundle", hint="Name it: edgeslm flash BUNDLE --to DEST")
    return wanted.bundle


def _base(wanted: Wanted) -> Path:
    if wanted.base is None:
        raise InvalidOption(
            "an image is made from another one",
            hint="Add --base IMAGE: Raspberry Pi OS, 64 bits (.img or .img.xz), or --base debian.",
        )
    return wanted.base


_TOLD = "--hostname, --user, --wifi and the like"
_OF_BOARDS = ("--base", _TOLD, "--imager-json")
_FOR_SERVING = ("--runtime", "--trust", "--port")


def _base_at_hand(wanted: Wanted, to: str) -> Path | None:
    base = _base(wanted)
    return flash_base.at_hand(base, dry_run=wanted.dry_run, json=wanted.json, to=to)


def refuse(wanted: Wanted, what: str, *options: str) -> None:
    """Return if none of these options was typed, since it would be left undone.

    Raises:
        InvalidOption: one was.
    """
    given = {
        "--base": wanted.base is not None,
        _TOLD: wanted.told != Told(),
        "--imager-json": wanted.imager_json is not None,
        "--runtime": wanted.runtime is not None,
        "--trust": bool(wanted.trust),
        "--port": wanted.port is not None,
    }
    for option in options:
        if given[option]:
            raise InvalidOption(
                f"{option} cannot be used with {what}",
                hint="Leave it out, or make an image first: --to board.img --base IMAGE.",
            )


def _ensure_new(target: Path, base: Path, wanted: Wanted) -> None:
    with reading(base):
        same = target.exists() and base.exists() and target.samefile(base)
    if same:
        raise InvalidOption(f"{target}: is the base itself", hint="Name another image with --to.")
    listed = [] if wanted.imager_json is None else [_listed(target)]
    for path in (target, *listed):
        if path.exists() and not wanted.dry_run:
            ask(f"{path} is there already. Replace it?", wanted)


def _listed(target: Path) -> Path:
    """Where the list for Raspberry Pi Imager is written."""
    return target.with_suffix(".json")


def _confirm(device: Device, wanted: Wanted) -> None:
    """Ask for a disk that can be taken out; have the name of any other typed."""
    if device.removable:
        ask(f"Everything on {device.describe()} is lost. Go on?", wanted)
        return
    if not sys.stdin.isatty():
        raise InvalidOption(
            f"{device.path} is built in, and nobody can be asked whether it is meant",
            hint="Use a terminal, or a disk that can be taken out.",
        )
    asked = f"{device.describe()} is built in, and all on it is lost. Type its name to go on"
    if str(typer.prompt(asked, err=True)).strip() not in (device.name, str(device.path)):
        raise InvalidOption("another name was typed; nothing was written", hint="Look at --list.")


def ask(question: str, wanted: Wanted) -> None:
    """Return if a person says yes, or said so beforehand.

    Raises:
        InvalidOption: they don't, or there is nobody.
    """
    if wanted.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidOption(f"{question} Nobody can be asked.", hint="Add --yes if it is meant.")
    if not typer.confirm(question, err=True):
        raise InvalidOption("nothing was written", hint="Repeat it, and answer with y.")


def _shown(wanted: Wanted, plan: Plan) -> bool:
    """Show the plan if that is all that is wanted."""
    from edgeslm.flash.plan import describe

    if wanted.dry_run and wanted.json:
        output.print_json({"schema": FLASH_SCHEMA, "plan": to_json(plan)})
    elif wanted.dry_run:
        output.print_lines(describe(plan))
    return wanted.dry_run


def _list_for_imager(
    wanted: Wanted, target: Path, made: Made, settings: Settings
) -> dict[str, Any]:
    if wanted.imager_json is None:
        return {}
    import json

    from edgeslm.flash.image.imager import os_list
    from edgeslm.flash.image.making import imager_format

    found = os_list(
        name=f"{made.system.name} with {target.stem}",
        description=f"Serves the bundle {made.report.plan.digest[:19]}",
        url=wanted.imager_json,
        size=made.bytes,
        sha256=sha256(target),
        date=date.today().isoformat(),
        first_boot=imager_format(settings, made.system),
    )
    beside = _listed(target)
    with atomic_path(beside) as temporary:
        temporary.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return {"imager_list": str(beside)}


def _tell(wanted: Wanted, report: Report, more: dict[str, Any] | None = None) -> None:
    if wanted.json:
        document = {"schema": FLASH_SCHEMA, "report": to_json(report)}
        output.print_json(document | (more or {}))
        return
    what = f"wrote {format_bytes(report.written_bytes)} to {report.plan.destination}"
    verified = f"read back {format_bytes(report.verified_bytes)}"
    print(f"{what}, {verified}, in {format_seconds(report.seconds)}")
    output.print_lines(report.notes)
    if more:
        print(f"For Raspberry Pi Imager: rpi-imager --repo {more['imager_list']}")
