"""The whole chain: checkpoint or GGUF file to a bundle. Joins steps, computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeslm.bundle.contents import ChatSettings, Contents
from edgeslm.bundle.model_path import find_model
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.probes import Limits
from edgeslm.bundle.signing import sign_image
from edgeslm.bundle.writing import ensure_bundle_writable, write_bundle
from edgeslm.errors import InvalidOption, reading
from edgeslm.estimate.prediction import predict, usual_kv_type
from edgeslm.files import scratch_folder
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.packager.convert import convert
from edgeslm.packager.extras import (
    Extras,
    check_adapters,
    device_runtime,
    look_beside,
    probe_of,
    quality_card,
    read_records,
)
from edgeslm.packager.quantize import Effort, Wishes, quantize
from edgeslm.packager.quantize.result import is_quantized
from edgeslm.records import Prediction
from edgeslm.targets.target import Target
from edgeslm.targets.writing import target_toml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DEFAULT_TYPE = "Q4_K_M"
"""What float weights become when nothing else is asked for: the usual compromise."""


class Baker(Protocol):
    """Computes the state of a system prompt; who runs models can."""

    def check(self, model: Path, system: str, context_length: int) -> None:
        """Return if the model of `model`'s vocabulary can be told that, or raise a UserError."""

    def bake(
        self, model: Path, system: str, folder: Path, context_length: int, kv_type: str
    ) -> Path | None:
        """The file of the state, made in `folder`; None if the text is too short for one."""


@dataclass(frozen=True)
class PackResult:
    """A bundle and what to expect of it."""

    path: Path
    contents: Contents
    prediction: Prediction
    warnings: tuple[str, ...]


def pack(
    model: Path,
    output: Path,
    *,
    target: Target,
    file_type: str | None = None,
    wishes: Wishes | None = None,
    recipe: Path | None = None,
    context_length: int | None = None,
    kv_type: str | None = None,
    effort: Effort | None = None,
    system: str | None = None,
    baker: Baker | None = None,
    extras: Extras | None = None,
    key: EllipticCurvePrivateKey | None = None,
) -> PackResult:
    """Convert, quantize and predict as needed, and write a bundle ready for the board.

    Without a type, budget or recipe, a quantized model stays as it is and float weights become
    DEFAULT_TYPE.

    Args:
        model: A Hugging Face checkpoint, a GGUF file or a bundle.
        output: A directory, or one tar if the name ends so; it appears when it is complete.
        target: The board it is for.
        file_type: A type by llama.cpp's name,
        wishes: or what the model may take,
        recipe: or the file of a mix.
        context_length: Tokens of context the prediction is for; None for the target's default.
        kv_type: The type of the KV cache the prediction is for; None for the target's default.
        effort: How much to find out before a mix is chosen.
        system: What the model is told about its task there.
        baker: Computes the state of that; without it, the text is packed alone.
        extras: What else goes in.
        key: The private key that signs it.

    Raises:
        UserError: the model or an option is wrong.
        Failure: a step failed.
    """
    way = _Way(file_type, wishes, recipe)
    effort = effort or Effort()
    if wishes is None and recipe is None and (effort.quick or effort.calibration):
        raise InvalidOption(
            "calibration is for a budget or a recipe",
            hint="Give --bits, --size or another limit with it, or leave it out.",
        )
    ensure_bundle_writable(output)
    extras = extras or Extras()
    texts, records = look_beside(model, extras), read_records(extras)
    runtime = device_runtime(extras, target)
    with scratch_folder(output) as folder:
        source = as_gguf(model, folder / "converted.gguf")
        # what cannot be predicted, or told to the model, is known before the work
        header = read_model(source)
        kv_type = kv_type or usual_kv_type(header, target)
        expected = partial(predict, target=target, context_length=context_length, kv_type=kv_type)
        length = expected(header).context_length
        check_adapters(extras, header)
        way = way.settled(header)
        if way == _AS_IT_IS:
            records.ensure_about(source)
        if system is not None:
            _require_template(model, header)
            if baker is not None:
                baker.check(source, system, length)
        packed, warnings = _quantized(source, folder / "quantized.gguf", way, target, effort)
        records.ensure_about(packed)
        card = records.quality[1] if records.quality else quality_card(model, packed)
        state = None
        if system is not None and baker is not None:
            state = baker.bake(packed, system, folder / "baked", length, kv_type)
        probe = None
        if extras.probe:
            probe = probe_of(packed, made_here=packed.parent == folder)
        parts = Parts(
            model=packed,
            prediction=expected(read_model(packed)),
            move=packed.parent == folder,
            chat=None if system is None else ChatSettings(system, kv_type),
            state=state,
            target=target_toml(target),
            measured=tuple(record for _, record in records.measured),
            limits=_limits(wishes),
            probe=probe,
            license=texts.license,
            card=texts.card,
            quality=card,
            adapters=extras.adapters,
            wheels=runtime.wheels,
            runtimes=runtime.listed,
        )
        sign = None if key is None else partial(sign_image, key=key)
        contents = write_bundle(output, parts, sign=sign)
    assert parts.prediction is not None  # noqa: S101  given above
    return PackResult(output, contents, parts.prediction, warnings)


def _limits(wishes: Wishes | None) -> Limits | None:
    """What the device can check of the user's wishes."""
    if wishes is None or wishes.min_tokens_per_second is None:
        return None
    return Limits(wishes.min_tokens_per_second)


def _require_template(model: Path, header: Header) -> None:
    if not header.get("tokenizer.chat_template"):
        raise InvalidOption(
            f"{model}: this model has no chat template, so nothing can be told to it",
            hint="Leave out --system, or choose a model that can chat.",
        )


@dataclass(frozen=True)
class _Way:
    """How the model shall become smaller; at most one is given."""

    file_type: str | None
    wishes: Wishes | None
    recipe: Path | None

    def __post_init__(self) -> None:
        if [self.file_type, self.wishes, self.recipe].count(None) < 2:
            raise InvalidOption(
                "a type, a budget and a recipe exclude each other",
                hint="Give a --type, or a --recipe, or limits such as --bits, --size and --ram.",
            )

    def settled(self, header: Header) -> _Way:
        """The same; where nothing was said and weights are floats, the usual type."""
        if self == _AS_IT_IS and not is_quantized(header):
            return _Way(DEFAULT_TYPE, None, None)
        return self


_AS_IT_IS = _Way(None, None, None)


def as_gguf(model: Path, converted: Path) -> Path:
    """The GGUF file of a model, converted first where it is a checkpoint."""
    with reading(model):
        checkpoint = (model / "config.json").exists()
    if checkpoint:
        convert(model, converted)
        return converted
    return find_model(model)


def _quantized(
    source: Path, output: Path, way: _Way, target: Target, effort: Effort
) -> tuple[Path, tuple[str, ...]]:
    """The file to pack, `source` itself where nothing is to be done, and warnings."""
    if way == _AS_IT_IS:
        return source, ()
    result = quantize(
        source,
        output,
        file_type=way.file_type,
        wishes=way.wishes,
        recipe=way.recipe,
        target=target,
        effort=effort,
    )
    return output, result.warnings
