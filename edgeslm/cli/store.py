"""A device's versions: `edgeslm store`; and what turns one into another: `edgeslm delta`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidBundle, NotFound, Unhealthy
from edgeslm.flash import places
from edgeslm.records import HEALTH_SCHEMA, document, to_json
from edgeslm.units import format_bytes, format_seconds, parse_bytes, significant

if TYPE_CHECKING:
    from edgeslm.bundle.store import Store
    from edgeslm.bundle.store_state import Added
    from edgeslm.runtime.health import Health

app = typer.Typer(
    help="A device's versions of a bundle: added whole, switched in one step, taken back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_VARIABLE = "EDGESLM_STORE"
_LEEWAY = 0.9
"""Of a speed that was asked for when the model was packed, which is a prediction; what is asked for
here counts as it is."""

_Folder = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help=f"The store; default: $EDGESLM_STORE, else /{places.STORE} where that may be written, "
        "else one of yours.",
    ),
]
_Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="The beginning of its digest, as list shows it.", show_default=False
    ),
]
_Activate = Annotated[
    bool, typer.Option("--activate", help="Check it then, and make it current if it passes.")
]
_Again = Annotated[bool, typer.Option("--again", help="Even if it did not pass its check before.")]
_Unchecked = Annotated[
    bool, typer.Option("--unchecked", help="Make it current without loading it.")
]
_MinSpeed = Annotated[
    float | None,
    typer.Option(
        "--min-tps",
        metavar="N",
        help="Tokens per second it has to reach; default: 0.9 of what pack --min-tps asked for.",
    ),
]
_Ram = Annotated[
    int | None,
    typer.Option(
        "--ram",
        parser=parse_bytes,
        metavar="S",
        help="Most that may be resident while it is checked: with the file's pages and the copies "
        "of weights, and a short context. Default: that is not checked. serve makes its own plan.",
    ),
]

_MEND = "Add the same bundle again, which mends it: edgeslm store add BUNDLE"


@app.command("list")
def list_(store: _Folder = None, json: options.Json = False) -> None:
    """Show the versions that are there, which one is current, and which were refused.

    Examples:
        edgeslm store list
    """
    place = _opened(store)
    versions, state = place.versions(), place.state
    if json:
        refused = to_json(state.refused)
        output.print_json(
            {"store": str(place.root), "versions": to_json(versions), "refused": refused}
        )
        return
    if not versions:
        print(f"{place.root}: empty; add a version with: edgeslm store add BUNDLE --activate")
    marks = {(True, False): "current", (False, True): "previous"}
    output.print_table(
        (each.name, format_bytes(each.bytes), marks.get((each.current, each.previous), ""))
        for each in versions
    )
    for refusal in state.refused:
        print(f"refused {refusal.version}: {refusal.reason}")


@app.command()
def add(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="A bundle: a directory, or one tar.", show_default=False
        ),
    ],
    store: _Folder = None,
    activate: _Activate = False,
    again: _Again = False,
    unchecked: _Unchecked = False,
    min_tps: _MinSpeed = None,
    ram: _Ram = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Bring a bundle in, verified byte for byte. What other versions have too is not copied.

    Where it is there already, it is read, and mended if it was damaged.

    With --activate it is then loaded and asked in a process of its own. Only if it answers as it
    did where it was packed does it become current; else the old version stays. Restart what serves
    it.

    Examples:
        edgeslm store add packed/ --activate
        edgeslm store add packed.tar
    """
    from edgeslm.bundle.store import Store

    place = Store(store or _default())
    added = place.add(bundle, again=again)
    gate = _Gate(min_tps, ram, threads)
    _go_on(place, added, gate, activate=activate, again=again, unchecked=unchecked, json=json)


@app.command()
def apply(
    delta: Annotated[
        Path, typer.Argument(metavar="DELTA", help="What edgeslm delta wrote.", show_default=False)
    ],
    store: _Folder = None,
    activate: _Activate = False,
    again: _Again = False,
    unchecked: _Unchecked = False,
    min_tps: _MinSpeed = None,
    ram: _Ram = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Put a new version together from what is here and what a delta brings.

    It takes some 40 MB of memory whatever the size, and goes on where it was interrupted. All of it
    is verified, byte for byte, before it counts as a version.

    Examples:
        edgeslm store apply update.delta --activate
    """
    from edgeslm.bundle.delta_applying import apply_delta
    from edgeslm.bundle.store import Store

    place = Store(store or _default())
    added = apply_delta(place, delta, again=again)
    gate = _Gate(min_tps, ram, threads)
    _go_on(place, added, gate, activate=activate, again=again, unchecked=unchecked, json=json)


@app.command()
def activate(
    version: _Version,
    store: _Folder = None,
    again: _Again = False,
    unchecked: _Unchecked = False,
    min_tps: _MinSpeed = None,
    ram: _Ram = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Check a version, and make it current if it passes; the current one becomes the previous one.

    What serves the old version goes on with it until it is restarted.

    Examples:
        edgeslm store activate 94153f28
    """
    place = _opened(store)
    gate = _Gate(min_tps, ram, threads)
    name = place.find(version)
    state = _activated(place, name, gate, again=again, unchecked=unchecked, json=json)
    if json:
        output.print_json({"state": to_json(state), "health": gate.as_json()})
    else:
        gate.show()
        print(f"current: {state.current}")


@app.command()
def rollback(store: _Folder = None, json: options.Json = False) -> None:
    """Make the previous version current again, in one step and unchecked. Restart what serves it.

    Examples:
        edgeslm store rollback
    """
    state = _opened(store).rollback()
    if json:
        output.print_json({"state": to_json(state)})
    else:
        print(f"current: {state.current}")
        print(f"previous: {state.previous}")


@app.command()
def check(
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="VERSION",
            help="As list shows it; default: the current one.",
            show_default=False,
        ),
    ] = None,
    store: _Folder = None,
    min_tps: _MinSpeed = None,
    ram: _Ram = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Verify every byte of a version, then load and ask it as before a switch. Nothing is changed.

    Examples:
        edgeslm store check
    """
    from edgeslm.bundle.verification import verify_bundle

    place = _opened(store)
    name = place.find(version)
    try:
        verify_bundle(place.folder(name))
    except InvalidBundle as error:
        raise InvalidBundle(error.message, hint=_MEND) from error
    gate = _Gate(min_tps, ram, threads)
    problem = gate(place.folder(name))
    if json:
        output.print_json(gate.as_json())
    else:
        gate.show()
    if problem is not None:
        raise Unhealthy(f"{name}: {problem}", hint=_way_out(place, name))


@app.command()
def collect(store: _Folder = None, json: options.Json = False) -> None:
    """Remove versions that are neither current nor previous, and what was being received.

    A server that still has a removed version open goes on; its bytes are free when it ends.

    Examples:
        edgeslm store collect
    """
    collected = _opened(store).collect()
    if json:
        output.print_json(to_json(collected))
    else:
        count = len(collected.versions)
        print(f"removed {count} versions: {format_bytes(collected.freed_bytes)} freed")


@app.command()
def inventory(store: _Folder = None, json: options.Json = False) -> None:
    """Show what there is to build a new version from; --json is what `edgeslm delta` wants.

    Examples:
        edgeslm store inventory --json > inventory.json
    """
    from edgeslm.bundle.delta_inventory import inventory_of, write_inventory

    found = inventory_of(_opened(store).root)
    if json:
        print(write_inventory(found).decode())
        return
    tensors = {row[0] for model in found.models for row in model.tensors}
    print(f"{len(found.versions)} versions, {len(found.blobs)} blobs, {len(tensors)} tensors")


def delta(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="NEW", help="The new bundle: a directory, or one tar.", show_default=False
        ),
    ],
    old: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="OLD",
            help="What the device has: a bundle, or its inventory.json.",
            show_default=False,
        ),
    ],
    destination: options.Output,
    json: options.Json = False,
) -> None:
    """Write what turns one version into another: tensors and files that the device lacks.

    The device puts the new bundle together with `edgeslm store apply`.

    Examples:
        edgeslm delta packed-new/ --from packed/ -o update.delta
        edgeslm delta packed-new/ --from inventory.json -o update.delta
    """
    from edgeslm.bundle.delta_inventory import inventory_of
    from edgeslm.bundle.delta_making import make_delta

    made = make_delta(bundle, inventory_of(old), destination)
    if json:
        output.print_json(to_json(made))
        return
    for name, count in made.changed:
        print(f"{name}: {format_bytes(count)} new")
    share = made.sent_bytes / made.bundle_bytes
    print(f"wrote {made.path}: {format_bytes(made.sent_bytes)}, {share:.1%} of the bundle")


class _Gate:
    """The check before a switch, and what came of it."""

    def __init__(self, speed: float | None, ram: int | None, threads: int | None) -> None:
        self._speed = speed
        self._ram = ram
        self._threads = threads
        self._health: Health | None = None

    def __call__(self, folder: Path) -> str | None:
        """What is wrong with a version, in a sentence."""
        from edgeslm.bundle.layout import DirectoryLayout, read_image
        from edgeslm.bundle.probes import read_limits, read_probe
        from edgeslm.runtime.governor import default_threads
        from edgeslm.runtime.health import Demands, check_health

        layout = DirectoryLayout(folder)
        image = read_image(layout)
        packed = read_limits(layout, image).decode_tokens_per_second
        speed = self._speed
        if speed is None and packed is not None:
            speed = _LEEWAY * packed
        demands = Demands(speed, self._ram, self._threads or default_threads())
        model = folder / image.model.blob.name
        self._health = check_health(model, read_probe(layout, image), demands)
        return "; ".join(self._health.problems) or None

    def as_json(self) -> dict[str, Any] | None:
        """The report; None where nothing was checked."""
        return None if self._health is None else document(HEALTH_SCHEMA, self._health)

    def show(self) -> None:
        """The report, for people."""
        found = None if self._health is None else self._health.answers
        if self._health is None or found is None:
            return
        rows = [("loads in", format_seconds(found.load_seconds))]
        if found.divergence is not None and found.same is not None:
            same = f"same first choice {found.same:.0%}"
            rows.append(("differs by", f"{found.divergence:.5f} nats per token, {same}"))
        elif not self._health.compared:
            rows.append(("differs by", "unknown: nothing to compare with was packed"))
        if found.tokens_per_second is not None:
            rows.append(("decode", f"{significant(found.tokens_per_second)} tokens/s"))
        if found.peak_bytes is not None:
            rows.append(("peak memory", format_bytes(found.peak_bytes)))
        output.print_table(rows)


def _go_on(
    place: Store,
    added: Added,
    gate: _Gate,
    *,
    activate: bool,
    again: bool,
    unchecked: bool,
    json: bool,
) -> None:
    """Report what was added, and activate it if that is wanted."""
    if not json:
        written = f"{format_bytes(added.written_bytes)} written"
        mended = f"was damaged, {written}" if added.written_bytes else "had it already"
        print(f"added {added.version}: {written if added.new else mended}")
    state = place.state
    if activate:
        name = added.version
        state = _activated(place, name, gate, again=again, unchecked=unchecked, json=json)
    if json:
        output.print_json({**to_json(added), "state": to_json(state), "health": gate.as_json()})
    elif activate:
        gate.show()
        print(f"current: {state.current}")
    else:
        print(f"make it current with: edgeslm store activate {added.version[:8]}")


def _activated(
    place: Store, version: str, gate: _Gate, *, again: bool, unchecked: bool, json: bool
) -> Any:
    """The new state; a report of a failed check is printed before its error is."""
    try:
        return place.activate(version, None if unchecked else gate, again=again)
    except Unhealthy:
        if json:
            output.print_json({"state": to_json(place.state), "health": gate.as_json()})
        else:
            gate.show()
        raise


def _way_out(place: Store, version: str) -> str:
    """What to do about a version that did not pass."""
    state = place.state
    if version != state.current:
        return "It is not current; add a better one before you switch."
    if state.previous is None:
        return "Add a better one: edgeslm store add BUNDLE --activate"
    return "Go back to the version before: edgeslm store rollback"


def _opened(folder: Path | None) -> Store:
    """The store that the user means.

    Raises:
        NotFound: there is none yet.
    """
    from edgeslm.bundle.store import Store
    from edgeslm.bundle.store_state import is_store

    place = folder or _default()
    if not is_store(place):
        raise NotFound(
            f"{place}: no store", hint="The first bundle makes one: edgeslm store add BUNDLE"
        )
    return Store(place)


def _default() -> Path:
    """The device's store where we may write it, else one of the user's own."""
    from edgeslm.files import state_folder

    named = os.environ.get(_VARIABLE)
    if named:
        return Path(named)
    device = Path(f"/{places.STORE}")
    near = next(path for path in (device, *device.parents) if path.exists())
    if os.access(near, os.W_OK):
        return device
    own = state_folder("store")
    if own is None:
        raise NotFound("no place for a store", hint="Name one: --store DIR")
    return own
