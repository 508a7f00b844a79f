"""From what the user wants served to models that are ready, under their names."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.errors import InvalidOption

if TYPE_CHECKING:
    from edgeslm.runtime.server.hosted import HostOptions, Served


@dataclass(frozen=True)
class Wish:
    """An adapter that is to be served: the file, and the name of the model it changes."""

    name: str
    file: Path
    base: str


def names_of(models: Sequence[Path], given: Sequence[str]) -> list[str]:
    """What clients call the models: what was given, else by the names of files and directories.

    In a store, its current model's.

    Raises:
        InvalidOption: there are more or fewer names than models.
    """
    from edgeslm.bundle.model_path import name_of

    if given and len(given) != len(models):
        raise InvalidOption(
            f"{len(given)} names for {len(models)} models", hint="Give --name once for each."
        )
    return list(given) or [name_of(model) for model in models]


def read_adapter(text: str, models: Sequence[str]) -> Wish:
    """What NAME=FILE, or NAME=FILE@MODEL, asks for.

    Raises:
        InvalidOption: it is neither, or there is no such model.
    """
    from edgeslm.bundle.trust import refuse_unsigned

    name, _, rest = text.partition("=")
    file, _, base = rest.rpartition("@") if len(models) > 1 else (rest, "", models[0])
    if not name.strip() or not file:
        form = "NAME=FILE@MODEL" if len(models) > 1 else "NAME=FILE"
        raise InvalidOption(f"--adapter {text}", hint=f"Write {form}.")
    if base not in models:
        raise InvalidOption(
            f"--adapter {text}: there is no model {base}", hint=f"There is: {', '.join(models)}."
        )
    refuse_unsigned(Path(file))
    return Wish(name.strip(), Path(file), base)


def packed_adapters(models: Mapping[str, Path], taken: Sequence[str]) -> list[Wish]:
    """What comes with the models: each adapter in a bundle under its name.

    One whose name is taken, or that two bundles have, is called MODEL/NAME.
    """
    from edgeslm.bundle.model_path import find_package

    found = [
        Wish(name, file, base)
        for base, path in models.items()
        for name, file in find_package(path).adapters.items()
    ]
    counts = Counter([*taken, *(wish.name for wish in found)])
    return [
        wish if counts[wish.name] == 1 else replace(wish, name=f"{wish.base}/{wish.name}")
        for wish in found
    ]


def kv_type_of(models: Sequence[Path], given: str | None) -> str:
    """The cache's type for all models: what the user gave, else what one was packed for.

    Raises:
        InvalidOption: it is none.
    """
    from edgeslm.bundle.model_path import find_package
    from edgeslm.runtime.tuned import DEFAULT_KV_TYPE, require_kv_type

    packed = (find_package(model).kv_type for model in models)
    kv_type = (given or next(filter(None, packed), DEFAULT_KV_TYPE)).upper()
    require_kv_type(kv_type)
    return kv_type


def refuse_equal(names: Sequence[str]) -> None:
    """Return if every name is one model's alone.

    Raises:
        InvalidOption: it is not.
    """
    if len(set(names)) < len(names) or not all(names):
        raise InvalidOption(
            f"the models' names must differ: {', '.join(names)}", hint="Give each a --name."
        )


def open_models(stack: ExitStack, models: Mapping[str, Path], options: HostOptions) -> list[Served]:
    """The models under their names; `stack` closes them."""
    from edgeslm.bundle.model_path import find_package
    from edgeslm.runtime.server.hosted import Hosted

    turn = threading.Lock() if len(models) > 1 else None
    opened: list[Served] = []
    for name, path in models.items():
        package = find_package(path, to_run=True)
        of_model = replace(
            options,
            system=package.system,
            states=package.states,
        )
        opened.append(stack.enter_context(Hosted(name, package.model, of_model, turn)))
    return opened


def open_specialists(served: Sequence[Served], wishes: Sequence[Wish]) -> list[Served]:
    """The models that adapters make of those that are served; they end with them."""
    from edgeslm.runtime.server.hosted import Hosted

    bases = {each.name: each for each in served if isinstance(each, Hosted)}
    return [bases[wish.base].specialist(wish.name, wish.file) for wish in wishes]
