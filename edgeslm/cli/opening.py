"""From what the user named to a model that is ready to answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeslm.bundle.model_path import Package
    from edgeslm.gguf.reader import Header
    from edgeslm.llama.adapter import Adapter
    from edgeslm.llama.model import Model
    from edgeslm.runtime.session import Session
    from edgeslm.runtime.tuned import Settled


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Attributes:
        model: A GGUF file, or a bundle.
        context: Tokens of context.
        kv_type: The cache's type; None for the packed one, else F16.
        ubatch: Tokens of a prompt that are computed at once.
        threads: To compute with; None for the best that is known here.
        adapter: A file that changes the model, or the name of one in the bundle.
        prompt_cache: Bytes on disk for states of prompts.
        draft: A smaller model that guesses ahead.
        guesses: Whether tokens may be guessed ahead.
        ram: Bytes that it may take; None for what is free.
        explicit: Names of what the user said, which stays as it is.
    """

    model: Path
    context: int
    kv_type: str | None = None
    ubatch: int = 512
    threads: int | None = None
    adapter: Path | None = None
    prompt_cache: int = 0
    draft: Path | None = None
    guesses: bool = True
    ram: int | None = None
    explicit: Collection[str] = ()


@dataclass(frozen=True)
class Opened:
    """What is ready; `system` is what came with the model."""

    model: Model
    session: Session
    settled: Settled
    system: str | None
    adapter: Adapter | None


@contextmanager
def opened(wanted: Wanted) -> Iterator[Opened]:
    """A session with all that the user asked for.

    Raises:
        EdgeslmError: something of it cannot be had.
    """
    from edgeslm.bundle.model_path import find_model, find_package
    from edgeslm.gguf.validation import read_model
    from edgeslm.llama.adapter import Adapter
    from edgeslm.llama.model import Model
    from edgeslm.runtime.cores import pinned
    from edgeslm.runtime.prompt_states import PromptStates, states_folder
    from edgeslm.runtime.session import Session

    package = find_package(wanted.model, to_run=True)
    paths = [
        package.model,
        *([find_model(wanted.draft, to_run=True)] if wanted.draft else []),
    ]
    file = None if wanted.adapter is None else packed_or_given(wanted.adapter, package)
    headers = [read_model(path) for path in paths]
    settled = _settled(replace(wanted, adapter=file), package.kv_type, headers)
    with ExitStack() as stack:
        stack.enter_context(pinned(settled.cores))
        model, *drafts = (
            stack.enter_context(Model(path, header=header))
            for path, header in zip(paths, headers, strict=True)
        )
        headers.clear()  # and with them the vocabularies
        adapter = None
        if file is not None:
            adapter = stack.enter_context(Adapter(model, file))
        states = stack.enter_context(
            PromptStates(states_folder(), wanted.prompt_cache, package.states)
        )
        session = stack.enter_context(Session(model, settled.options, states, *drafts))
        yield Opened(model, session, settled, package.system, adapter)


def packed_or_given(adapter: Path, package: Package) -> Path:
    """The adapter of that name in the bundle, else the file.

    Raises:
        Untrusted: this machine accepts nothing but what came in a signed bundle.
    """
    from edgeslm.bundle.trust import refuse_unsigned

    packed = package.adapters.get(str(adapter))
    if packed is not None:
        return packed
    refuse_unsigned(adapter)
    return adapter


def _settled(wanted: Wanted, packed_kv_type: str | None, headers: Sequence[Header]) -> Settled:
    """What it will run with: as the user said, as tuned, and so that it fits."""
    from edgeslm.cli.memory import fitted, size_of
    from edgeslm.llama.context import ContextOptions
    from edgeslm.runtime.speculation import MOST_ROWS
    from edgeslm.runtime.tuned import DEFAULT_KV_TYPE, require_kv_type, settle

    kv_type = (wanted.kv_type or packed_kv_type or DEFAULT_KV_TYPE).upper()
    require_kv_type(kv_type)
    usual = ContextOptions()
    options = ContextOptions(
        length=wanted.context,
        batch=max(usual.batch, wanted.ubatch),
        ubatch=wanted.ubatch,
        outputs=MOST_ROWS if wanted.guesses else 1,
        as_it_fills=True,
        threads=1 if wanted.threads is None else wanted.threads,
    )
    settled = settle(headers[0], options, threads=wanted.threads, kv_type=kv_type)
    if "ubatch" in wanted.explicit:
        settled = replace(settled, options=replace(settled.options, ubatch=wanted.ubatch))
    fitting = fitted(headers, settled.options, wanted.ram, wanted.explicit, size_of(wanted.adapter))
    return replace(settled, options=fitting)
