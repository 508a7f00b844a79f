"""What /set changes during a chat: how answers are generated. Names are those of the options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgeslm.errors import InvalidOption, NotFound
from edgeslm.runtime.generation import GenerationOptions

_NONE = ("none", "off", "random")


def _whole_or_none(text: str) -> int | None:
    return None if text in _NONE else int(text)


_OF_SAMPLING: dict[str, tuple[str, Callable[[str], Any]]] = {
    "temperature": ("temperature", float),
    "top-k": ("top_k", int),
    "top-p": ("top_p", float),
    "min-p": ("min_p", float),
    "repeat-penalty": ("repeat_penalty", float),
    "presence-penalty": ("presence_penalty", float),
    "frequency-penalty": ("frequency_penalty", float),
    "dry": ("dry_multiplier", float),
    "xtc": ("xtc_probability", float),
    "seed": ("seed", _whole_or_none),
}
NAMES = (*_OF_SAMPLING, "tokens")
_SHORT = {"n": "tokens"}


def changed(options: GenerationOptions, name: str, value: str) -> GenerationOptions:
    """`options` with one setting changed.

    Raises:
        NotFound: there is no such setting.
        InvalidOption: it cannot have that value.
    """
    name = _SHORT.get(name, name)
    if name == "tokens":
        return replace(options, max_tokens=_parsed(name, value, _whole_or_none))
    if name not in _OF_SAMPLING:
        raise NotFound(f"there is no setting {name}", hint=f"One of {', '.join(NAMES)}.")
    field, parse = _OF_SAMPLING[name]
    sampling = replace(options.sampling, **{field: _parsed(name, value, parse)})
    return replace(options, sampling=sampling)


def listed(options: GenerationOptions) -> str:
    """All settings, a line each."""
    values = {name: getattr(options.sampling, field) for name, (field, _) in _OF_SAMPLING.items()}
    values["tokens"] = options.max_tokens
    lines = ((name, "none" if value is None else value) for name, value in values.items())
    return "\n".join(f"{name:<17} {value}" for name, value in lines)


def _parsed(name: str, value: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidOption(
            f"{name} needs a number, not {value!r}", hint=f"For example: /set {name} 1"
        ) from error
