"""The verb flash for a board that runs: planned, done, shown; gone back; opened in a browser."""

from __future__ import annotations

import os
import socket
import sys
import time
import webbrowser
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeslm.cli import output
from edgeslm.cli.flashing import Wanted, ask, bundle_of, scratch
from edgeslm.errors import HostFailure, InvalidOption
from edgeslm.flash.plan import describe
from edgeslm.flash.service import Service
from edgeslm.flash.ssh.destination import Destination, parse_destination
from edgeslm.records import FLASH_SCHEMA, to_json
from edgeslm.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgeslm.flash.plan import Plan, Report
    from edgeslm.flash.ssh.device import Device
    from edgeslm.flash.ssh.upkeep import Status


def to_board(wanted: Wanted, to: str) -> None:
    """Flash a board, or do with it what was asked for.

    Raises:
        EdgeslmError: what was asked for contradicts itself, or failed.
    """
    from edgeslm.flash.ssh.device import Device

    destination, over = parse_destination(to), wanted.over_ssh
    asked = [
        name
        for name, typed in (
            ("--status", over.status),
            ("--rollback", over.rollback),
            ("--uninstall", over.uninstall),
        )
        if typed
    ]
    _check(wanted, asked)
    with closing(Device(destination, over.config)) as device:
        if over.status:
            _show_status(wanted, device)
        elif over.rollback:
            _roll_back(wanted, device)
        elif over.uninstall:
            _uninstall(wanted, device)
        elif wanted.bundle is not None or not over.open_chat:
            _flash(wanted, device, destination)
        if over.open_chat and not wanted.dry_run:
            _open(device)


def _check(wanted: Wanted, asked: list[str]) -> None:
    if len(asked) > 1:
        raise InvalidOption(f"{' and '.join(asked)} exclude each other", hint="Use one of them.")
    if asked and wanted.bundle is not None:
        raise InvalidOption(f"{asked[0]} takes no bundle", hint="Leave the bundle out.")
    if asked and wanted.dry_run:
        raise InvalidOption(f"{asked[0]} excludes --dry-run", hint="Use --status to look.")
    if wanted.bundle is None:
        _refuse_idle(wanted)
    if wanted.over_ssh.keep_models and not wanted.over_ssh.uninstall:
        raise InvalidOption("--keep-models goes with --uninstall", hint="Leave it out.")
    if wanted.over_ssh.open_chat and (asked not in ([], ["--rollback"]) or wanted.json):
        raise InvalidOption("--open excludes that", hint="Leave --open out.")


def _refuse_idle(wanted: Wanted) -> None:
    """Return if nothing was typed that only a bundle makes use of."""
    given = {
        "--runtime": wanted.runtime is not None,
        "--trust": bool(wanted.trust),
        "--port": wanted.port is not None,
        "--again": wanted.over_ssh.again,
    }
    for option, typed in given.items():
        if typed:
            raise InvalidOption(f"{option} goes with a bundle", hint="Name the bundle too.")


def _flash(wanted: Wanted, device: Device, destination: Destination) -> None:
    from edgeslm.flash.carried import opened
    from edgeslm.flash.plan import Report
    from edgeslm.flash.ssh import services
    from edgeslm.flash.ssh.cargo import load
    from edgeslm.flash.ssh.carrying import carry_out
    from edgeslm.flash.ssh.planning import plan_ssh

    with opened(bundle_of(wanted), scratch(), wanted.trust) as carried:
        cargo = load(carried, wanted.runtime, wanted.trust)
        had = device.board.port or Service.port
        port = had if wanted.port is None else wanted.port
        work = plan_ssh(destination, cargo, device.board, Service(port=port))
        work = replace(work, again=wanted.over_ssh.again)
        if wanted.dry_run:
            _show_plan(wanted, work.plan, nothing=work.nothing)
        elif work.nothing:
            answers = device.board.looked.active
            address = services.address(device, port) if answers else None
            _tell(wanted, Report(work.plan, 0, 0, 0.0, address, work.plan.notes), nothing=True)
        else:
            if sys.stderr.isatty():
                print("\n".join(map(output.one_line, describe(work.plan))), file=sys.stderr)
            _tell(wanted, carry_out(work, cargo, device), nothing=False)


def _show_plan(wanted: Wanted, plan: Plan, *, nothing: bool) -> None:
    if wanted.json:
        output.print_json({"schema": FLASH_SCHEMA, "plan": to_json(plan)})
        return
    output.print_lines(describe(plan))
    if nothing:
        print("nothing to do")


def _tell(wanted: Wanted, report: Report, *, nothing: bool) -> None:
    if wanted.json:
        output.print_json({"schema": FLASH_SCHEMA, "report": to_json(report)})
        return
    if nothing:
        print(f"nothing to do: {report.plan.destination} has {report.plan.bundle} already")
    else:
        took = format_seconds(report.seconds)
        sent = format_bytes(report.written_bytes)
        print(f"flashed {report.plan.destination}: sent {sent}, in {took}")
    output.print_lines(report.notes)
    if report.address is not None:
        output.print_lines([f"it answers at {report.address}"])


def _show_status(wanted: Wanted, device: Device) -> None:
    from edgeslm.flash.ssh.upkeep import status

    found = status(device)
    if wanted.json:
        output.print_json({"schema": FLASH_SCHEMA, "status": to_json(found)})
        return
    output.print_table(_rows(found))


def _rows(found: Status) -> list[tuple[str, str]]:
    state = "no systemd there"
    if found.systemd:
        state = f"{'' if found.enabled else 'not '}enabled, {'' if found.active else 'not '}active"
    others = [each for each in found.versions if each not in (found.current, found.previous)]
    return [
        ("system", f"{found.system or 'Linux'}, {found.architecture}"),
        ("Python", ", ".join(found.pythons)),
        ("memory", format_bytes(found.memory_bytes)),
        ("free", f"{format_bytes(found.free_bytes)} below {found.root}"),
        ("rights", found.rights),
        ("runtime", found.runtime or "none"),
        ("current", found.current or "none"),
        ("previous", found.previous or "none"),
        *([("others", ", ".join(others))] if others else []),
        ("service", state),
        ("trusted keys", ", ".join(found.keys) or "none: any bundle is served"),
        *([("left over", "by an interrupted flash: repeat it")] if found.left_over else []),
    ]


def _roll_back(wanted: Wanted, device: Device) -> None:
    from edgeslm.flash.ssh.upkeep import rollback

    version, address = rollback(device)
    if wanted.json:
        output.print_json({"schema": FLASH_SCHEMA, "current": version, "address": address})
        return
    print(f"{device.name} is back at {version}")
    if address is not None:
        output.print_lines([f"it answers at {address}"])


def _uninstall(wanted: Wanted, device: Device) -> None:
    from edgeslm.flash.ssh.upkeep import uninstall

    kept = " but the models" if wanted.over_ssh.keep_models else ", its models too"
    ask(f"Everything that was flashed to {device.name} is removed{kept}. Go on?", wanted)
    removed = uninstall(device, keep_models=wanted.over_ssh.keep_models)
    if wanted.json:
        output.print_json({"schema": FLASH_SCHEMA, "removed": removed})
        return
    output.print_lines([f"removed from {device.name}: {', '.join(removed)}"])


def _open(device: Device) -> None:
    """The board's web chat at a port of this machine, until Ctrl-C."""
    port = device.look().port
    if port is None or not device.board.looked.active:
        raise HostFailure(
            f"{device.name}: no service runs there that could be opened", hint="Look at --status."
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = int(probe.getsockname()[1])
    device.connection.forward(here, port)
    address = f"http://127.0.0.1:{here}/"
    print(f"the web chat: {address} (Ctrl-C ends it)", flush=True)
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        webbrowser.open(address)
    with suppress(KeyboardInterrupt):
        while device.connection.is_open():
            time.sleep(1)
        raise HostFailure(f"{device.name}: the connection ended", hint="Run it again.")
