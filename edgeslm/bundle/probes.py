"""What a bundle asks of the machine that runs it: nearly the same answers, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.bundle.documents import Fields, canonical, parse
from edgeslm.bundle.image import Image
from edgeslm.bundle.layout import Layout, read_blob
from edgeslm.bundle.names import DAMAGED, Role
from edgeslm.errors import InvalidBundle
from edgeslm.records import PROBE_SCHEMA, Probe, document, from_json

_MOST_STEPS = 256


@dataclass(frozen=True)
class Limits:
    """What was asked for when the model was packed.

    Attributes:
        decode_tokens_per_second: To be reached; None for whatever comes.
    """

    decode_tokens_per_second: float | None = None


def write_probe(probe: Probe) -> bytes:
    """The text of probe.json."""
    return canonical(document(PROBE_SCHEMA, probe))


def read_probe(layout: Layout, image: Image) -> Probe | None:
    """The probe in a bundle; None where it has none.

    Raises:
        InvalidBundle: it is malformed.
    """
    layer = image.layer(Role.PROBE)
    if layer is None:
        return None
    where = f"{layout.shown}/{layer.blob.name}"
    data = parse(read_blob(layout, layer.blob), where)
    Fields(where, data).expect("schema", PROBE_SCHEMA)
    try:
        probe = from_json(Probe, data)
    except ValueError as error:
        raise InvalidBundle(f"{where}: {error}", hint=DAMAGED) from error
    if not _is_sound(probe):
        raise InvalidBundle(f"{where}: contradicts itself", hint=DAMAGED)
    return probe


def read_limits(layout: Layout, image: Image) -> Limits:
    """The limits in a bundle's figures.

    Raises:
        InvalidBundle: they are malformed.
    """
    layer = image.layer(Role.FIGURES)
    if layer is None:
        return Limits()
    where = f"{layout.shown}/{layer.blob.name}"
    fields = Fields(where, parse(read_blob(layout, layer.blob), where))
    if fields.optional("limits") is None:
        return Limits()
    try:
        return from_json(Limits, fields.take("limits", dict))
    except ValueError as error:
        raise InvalidBundle(f"{where}: {error}", hint=DAMAGED) from error


def _is_sound(probe: Probe) -> bool:
    listed = [token for each in probe.likeliest for token in each.tokens]
    ids = [*probe.prompt, *probe.continuation, *listed]
    values = [value for each in probe.likeliest for value in each.log_probabilities]
    return (
        1 <= len(probe.prompt) <= _MOST_STEPS
        and 1 <= len(probe.continuation) == len(probe.likeliest) <= _MOST_STEPS
        and all(each.tokens for each in probe.likeliest)
        and all(len(each.tokens) == len(each.log_probabilities) for each in probe.likeliest)
        and all(0 <= token < 1 << 31 for token in ids)
        and all(value <= 0 for value in values)
        and probe.most_divergence >= 0
        and 0 <= probe.least_same <= 1
    )
