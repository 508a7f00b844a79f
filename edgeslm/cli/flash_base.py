"""The base of an image: a file, or a Debian that is made first."""

from __future__ import annotations

from pathlib import Path

from edgeslm.cli import output
from edgeslm.records import FLASH_SCHEMA, to_json


def at_hand(base: Path, *, dry_run: bool, json: bool, to: str) -> Path | None:
    """The file of a base, made now if it is a Debian that is not kept yet.

    Returns:
        None after a dry run told that it would be made first.

    Raises:
        EdgeslmError: it cannot be made.
    """
    from edgeslm.flash.debian import base as debian
    from edgeslm.flash.debian.recipe import recipe_of
    from edgeslm.flash.plan import Plan, Step, describe

    recipe = recipe_of(base)
    if recipe is None:
        return base
    if dry_run and not debian.kept(recipe).exists():
        then = Step("put the bundle, its runtime and its service into a copy of it")
        notes = (f"It is kept: {debian.kept(recipe)}. More is known once it is there.",)
        plan = Plan(to, str(base), "", (debian.step(recipe), then), notes)
        if json:
            output.print_json({"schema": FLASH_SCHEMA, "plan": to_json(plan)})
        else:
            output.print_lines(describe(plan))
        return None
    return debian.at_hand(recipe)


def notes_of(base: Path) -> tuple[str, ...]:
    """What to know of a base that was made here; nothing of files."""
    from edgeslm.flash.debian import base as debian
    from edgeslm.flash.debian.recipe import recipe_of

    recipe = recipe_of(base)
    return () if recipe is None else (debian.age(debian.kept(recipe)),)
