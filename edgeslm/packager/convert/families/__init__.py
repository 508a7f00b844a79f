"""The families that can be converted, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from edgeslm.errors import Unsupported
from edgeslm.packager.convert.families.base import Family
from edgeslm.packager.convert.families.gemma3 import Gemma3
from edgeslm.packager.convert.families.llama import Llama
from edgeslm.packager.convert.families.qwen2 import Qwen2
from edgeslm.packager.convert.families.qwen3 import Qwen3


def table(families: Iterable[Family]) -> Mapping[str, Family]:
    """The families by the architectures they claim.

    Raises:
        ValueError: two claim the same.
    """
    entries: dict[str, Family] = {}
    for family in families:
        for architecture in family.architectures:
            if architecture in entries:
                raise ValueError(f"two families claim {architecture}")
            entries[architecture] = family
    return MappingProxyType(entries)


FAMILIES = table([Gemma3(), Llama(), Qwen2(), Qwen3()])
"""By the name config.json gives in `architectures`."""


def family_for(architecture: str) -> Family:
    """The family that converts `architecture`.

    Raises:
        Unsupported: none does.
    """
    family = FAMILIES.get(architecture)
    if family is None:
        raise Unsupported(
            f"the architecture {architecture} cannot be converted",
            hint=f"Supported are {', '.join(sorted(FAMILIES))}.",
        )
    return family
