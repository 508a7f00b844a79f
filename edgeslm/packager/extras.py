"""What goes into a bundle beside the model: licence, cards, measurements, adapters, the runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeslm.bundle.documents import parse
from edgeslm.bundle.layout import DirectoryLayout, is_layout, read_blob, read_image
from edgeslm.bundle.names import FILE_NAME, MOST_JSON_BYTES, Role
from edgeslm.bundle.runtimes import RUNTIME_NAME, read_runtimes
from edgeslm.errors import InvalidBundle, InvalidOption, NativeFailure, reading
from edgeslm.files import remembered_sha256, sha256
from edgeslm.gguf.adapters import read_adapter
from edgeslm.gguf.reader import Header
from edgeslm.packager.evaluate.card import card_path
from edgeslm.records import MEASUREMENT_SCHEMA, QUALITY_SCHEMA, Probe
from edgeslm.targets.target import Target

_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_CARD = "README.md"
_WHEEL_ENDING = ".whl"


@dataclass(frozen=True)
class Extras:
    """What the user names; what is None is looked for where the model comes from.

    Attributes:
        license: The licence's text.
        card: The model card, Markdown.
        quality: What `edgeslm evaluate` wrote about the very file that is packed.
        measured: What `edgeslm profile --json` printed about it, board by board.
        adapters: Low-rank adapters by name.
        probe: Whether the model is asked here, so that a device can compare what it says.
        runtime: What the device installs: a folder of wheels, or one wheel.
    """

    license: Path | None = None
    card: Path | None = None
    quality: Path | None = None
    measured: Sequence[Path] = ()
    adapters: Mapping[str, Path] = field(default_factory=dict)
    runtime: Path | None = None
    probe: bool = True


@dataclass(frozen=True)
class Found:
    """Texts that came with the model."""

    license: bytes | None
    card: bytes | None


def look_beside(model: Path, extras: Extras) -> Found:
    """Licence and card: those that were named, else those of the checkpoint or the bundle.

    Raises:
        UserError: a file that was named cannot be read, or is too large.
    """
    near = Found(None, None)
    with reading(model):
        if (model / "config.json").exists():
            files = (_small(model / name) for name in _LICENSES if (model / name).is_file())
            card = model / _CARD
            near = Found(next(files, None), _small(card) if card.is_file() else None)
        elif model.is_dir() and is_layout(model):
            near = _of_bundle(model)
    return Found(
        near.license if extras.license is None else _small(extras.license),
        near.card if extras.card is None else _small(extras.card),
    )


def check_adapters(extras: Extras, base: Header) -> None:
    """Return if each adapter has a name that files can have, and is one for this model.

    Raises:
        UserError: it is not.
    """
    for name, path in extras.adapters.items():
        if not re.fullmatch(r"\w[\w.-]{0,63}", name, re.ASCII):
            raise InvalidOption(
                f"{name!r} is no name for an adapter", hint="Use letters, digits, - and _."
            )
        read_adapter(path, base)


@dataclass(frozen=True)
class DeviceRuntime:
    """What the device installs: packages by name, and the text of their runtime.json, if any."""

    wheels: tuple[Path, ...] = ()
    listed: bytes | None = None


def device_runtime(extras: Extras, target: Target) -> DeviceRuntime:
    """The packages for the device, those that runtime.json names where there is one.

    Raises:
        UserError: there are none, or what runtime.json says of them is not so, or none of it is
            for the target.
    """
    place = extras.runtime
    if place is None:
        return DeviceRuntime()
    with reading(place):
        if place.is_file() and _is_wheel(place):
            return DeviceRuntime((place,))
        if not place.is_dir():
            raise InvalidOption(
                f"{place}: no wheel, and no folder", hint="Name a folder of wheels."
            )
        if (place / RUNTIME_NAME).is_file():
            return _listed(place, target)
        found = tuple(sorted(path for path in place.iterdir() if _is_wheel(path)))
    if not found:
        raise InvalidOption(
            f"{place}: no wheels in it",
            hint=f"Make them: edgeslm wheels --target {target.id} -o {place}",
        )
    return DeviceRuntime(found)


def _is_wheel(path: Path) -> bool:
    return path.suffix == _WHEEL_ENDING and FILE_NAME.fullmatch(path.name) is not None


def _listed(folder: Path, target: Target) -> DeviceRuntime:
    place = folder / RUNTIME_NAME
    data = _small(place)
    runtimes = read_runtimes(data, str(place))
    for wheel in runtimes.wheels:
        if sha256(folder / wheel.name) != wheel.sha256:
            raise InvalidBundle(
                f"{folder / wheel.name}: not the one that {RUNTIME_NAME} names",
                hint="Make them again: edgeslm wheels",
            )
    if not any(
        runtime.architecture == target.architecture
        and set(runtime.features) <= set(target.features)
        for runtime in runtimes.runtimes
    ):
        sets = sorted({runtime.march for runtime in runtimes.runtimes})
        raise InvalidOption(
            f"{folder}: nothing in it runs on {target.id}; it is for {', '.join(sets)}",
            hint=f"Make what does: edgeslm wheels --target {target.id}",
        )
    return DeviceRuntime(tuple(folder / wheel.name for wheel in runtimes.wheels), data)


@dataclass(frozen=True)
class Records:
    """What is said of the file that is packed, by the files that say it.

    Attributes:
        quality: The quality card, if one was named.
        measured: Measurements, in the order they were named.
    """

    quality: tuple[Path, Mapping[str, Any]] | None
    measured: tuple[tuple[Path, Mapping[str, Any]], ...]

    def ensure_about(self, packed: Path) -> None:
        """Return if all of it is about that file.

        Raises:
            InvalidOption: something is about another one.
        """
        named = (*self.measured, *([self.quality] if self.quality else []))
        for path, record in named:
            if _model_of(record) != remembered_sha256(packed):
                raise InvalidOption(
                    f"{path}: about another file than the one that is packed",
                    hint="Pack the very file that was measured, without a type or a budget.",
                )


def read_records(extras: Extras) -> Records:
    """The records that the user named.

    Raises:
        InvalidOption: a file holds none.
    """
    card = extras.quality
    return Records(
        None if card is None else (card, _record(card, QUALITY_SCHEMA)),
        tuple((path, _record(path, MEASUREMENT_SCHEMA)) for path in extras.measured),
    )


def probe_of(packed: Path, *, made_here: bool) -> Probe | None:
    """What the model that is packed says here; None for one that says nothing.

    Args:
        packed: A GGUF file.
        made_here: Whether llama.cpp is known to take it, so that it can be loaded at once.

    Raises:
        NativeFailure: llama.cpp does not take it; the hint has how to pack it nevertheless.
    """
    from edgeslm.llama.likeliest import make_probe
    from edgeslm.llama.model import Model, ModelOptions

    try:
        # without copies of weights for the processor: it is asked for 16 tokens, not fast
        with Model(packed, ModelOptions(trusted=made_here, repack=False)) as opened:
            return make_probe(opened)
    except NativeFailure as error:
        hint = f"To pack it without asking it: --no-probe. {error.hint or ''}".strip()
        raise NativeFailure(error.message, hint=hint) from error


def quality_card(model: Path, packed: Path) -> Mapping[str, Any] | None:
    """The quality card of the file that is packed, where `model` comes from; None for none."""
    for card in (_card_beside(model), _card_within(model)):
        if card is not None and _model_of(card) == remembered_sha256(packed):
            return card
    return None


def _card_beside(model: Path) -> Mapping[str, Any] | None:
    try:
        beside = card_path(model)
        return _record(beside, QUALITY_SCHEMA) if beside.is_file() else None
    except (InvalidOption, OSError):
        return None


def _card_within(model: Path) -> Mapping[str, Any] | None:
    if not (model.is_dir() and is_layout(model)):
        return None
    layout = DirectoryLayout(model)
    layer = read_image(layout).layer(Role.QUALITY)
    if layer is None:
        return None
    try:
        return _as_record(read_blob(layout, layer.blob), str(model), QUALITY_SCHEMA)
    except InvalidOption:
        return None


def _of_bundle(model: Path) -> Found:
    layout = DirectoryLayout(model)
    image = read_image(layout)
    license_, card = image.layer(Role.LICENSE), image.layer(Role.CARD)
    return Found(
        None if license_ is None else read_blob(layout, license_.blob),
        None if card is None else read_blob(layout, card.blob),
    )


def _model_of(record: Mapping[str, Any]) -> object:
    model = record.get("model")
    return model.get("sha256") if isinstance(model, dict) else None


def _record(path: Path, schema: str) -> Mapping[str, Any]:
    return _as_record(_small(path), str(path), schema)


def _as_record(data: bytes, where: str, schema: str) -> Mapping[str, Any]:
    try:
        found = parse(data, where)
    except InvalidBundle:
        found = None
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise InvalidOption(f"{where}: no {schema}", hint="Name a file that edgeslm wrote.")
    return found


def _small(path: Path) -> bytes:
    with reading(path), path.open("rb") as stream:
        data = stream.read(MOST_JSON_BYTES + 1)
    if len(data) > MOST_JSON_BYTES:
        raise InvalidOption(
            f"{path}: more than the {MOST_JSON_BYTES} bytes that fit into a bundle",
            hint="Shorten it, or leave it out.",
        )
    return data
