"""The verb flash: a bundle to an image, a disk, a folder, a board that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeslm.cli import flash_told, flashing, options, output
from edgeslm.errors import InvalidOption


def flash(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE", help="A bundle; for a disk an image (.img) too.", show_default=False
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DEST",
            help="A new image (board.img), a disk (/dev/NAME), the folder of a mounted card, or "
            "a board: ssh://USER@HOST[:PORT][/FOLDER].",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="IMAGE",
            help="What the model is put into: Raspberry Pi OS, 64 bits (.img, .img.xz); or debian, "
            "debian:bookworm: made from Debian's packages, for boards with UEFI or U-Boot.",
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime",
            metavar="DIR",
            help="What the board runs it with, instead of what the bundle brings along: a folder "
            "that edgeslm wheels made.",
        ),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust",
            metavar="PUBLIC",
            help="The board accepts only bundles signed with this key; may be given again.",
        ),
    ] = None,
    list_disks: Annotated[
        bool, typer.Option("--list", help="Show the disks that can be written, and do nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="N",
            help="Where the board answers: 8080, or over ssh where it did before.",
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option("--hostname", metavar="NAME", help="The board's name.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who can log in on the board.")
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="That user's password; hashed here."),
    ] = None,
    password_prompt: Annotated[
        bool, typer.Option("--password-prompt", help="Ask for that password now.")
    ] = False,
    ssh_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--ssh-key",
            metavar="PUBLIC",
            help="Let that user in over ssh with this key; may be given again.",
        ),
    ] = None,
    ssh: Annotated[
        bool, typer.Option("--ssh", help="Let that user in over ssh with the password.")
    ] = False,
    wifi: Annotated[
        str | None, typer.Option("--wifi", metavar="SSID", help="The Wi-Fi network to join.")
    ] = None,
    wifi_password_file: Annotated[
        Path | None,
        typer.Option(
            "--wifi-password-file", metavar="FILE", help="Its password; only its key is written."
        ),
    ] = None,
    wifi_country: Annotated[
        str | None,
        typer.Option("--wifi-country", metavar="CC", help="Where it is: two letters, as in DE."),
    ] = None,
    locale: Annotated[
        str | None, typer.Option("--locale", metavar="NAME", help="Language, as in de_DE.UTF-8.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help="As in Europe/Berlin.")
    ] = None,
    keyboard: Annotated[
        str | None, typer.Option("--keyboard", metavar="LAYOUT", help="As in de.")
    ] = None,
    imager_json: Annotated[
        str | None,
        typer.Option(
            "--imager-json",
            metavar="URL",
            help="Write a list for Raspberry Pi Imager too: the image will be fetched from URL.",
        ),
    ] = None,
    open_chat: Annotated[
        bool, typer.Option("--open", help="ssh: open the board's web chat, through ssh.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="ssh: show how the board is.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="ssh: serve the bundle from before again.")
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="ssh: remove all that was flashed.")
    ] = False,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="With --uninstall: the bundles stay there.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="ssh: try a bundle that has not passed its check there."),
    ] = False,
    ssh_config: Annotated[
        Path | None,
        typer.Option("--ssh-config", metavar="FILE", help="For ssh, instead of your own."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Put a bundle and all that it needs where a board can start it, without a network there.

    Into an image of Raspberry Pi OS, onto a card or a stick, into a folder of one that is mounted,
    or over ssh to a board that runs. What was written is read back and compared. Making an image
    needs no root and mounts nothing; writing a disk needs the right to write it. Over ssh only what
    the board lacks is sent, and what was interrupted goes on where it was.

    Examples:
        edgeslm flash --list
        edgeslm flash packed-whole/ --to board.img --base raspios.img.xz --dry-run
        edgeslm flash packed-whole/ --to board.img --base debian --dry-run
        edgeslm flash board.img --to /dev/sdX
        edgeslm flash packed/ --to ssh://pi@raspberrypi.local --open
        edgeslm flash --to ssh://pi@raspberrypi.local --rollback
    """
    wanted = flashing.Wanted(
        bundle=bundle,
        base=base,
        runtime=runtime,
        trust=tuple(trust or ()),
        dry_run=dry_run,
        yes=yes,
        port=port,
        imager_json=imager_json,
        json=json,
        over_ssh=flashing.OverSsh(
            open_chat=open_chat,
            status=status,
            rollback=rollback,
            uninstall=uninstall,
            keep_models=keep_models,
            again=again,
            config=ssh_config,
        ),
        told=flash_told.Told(
            hostname=hostname,
            user=user,
            password_file=password_file,
            password_prompt=password_prompt,
            ssh_keys=tuple(ssh_key or ()),
            ssh=ssh,
            wifi=wifi,
            wifi_password_file=wifi_password_file,
            wifi_country=wifi_country,
            locale=locale,
            timezone=timezone,
            keyboard=keyboard,
        ),
    )
    if list_disks:
        flashing.show_disks(json)
    elif to is None:
        output.print_lines(flashing.EXPLANATION)
        raise InvalidOption("flash needs to know where to", hint="Add --to DEST.")
    else:
        flashing.carry(wanted, to)
