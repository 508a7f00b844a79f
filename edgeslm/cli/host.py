"""The verb that answers over HTTP: serve."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from edgeslm.cli import options, output
from edgeslm.cli.hosting import (
    kv_type_of,
    names_of,
    open_models,
    open_specialists,
    packed_adapters,
    read_adapter,
    refuse_equal,
)
from edgeslm.cli.memory import fitted_host, given, size_of
from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.files import read_text
from edgeslm.units import parse_bytes

_KEY_VARIABLE = "EDGESLM_API_KEY"


def serve(
    invocation: typer.Context,
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="GGUF files, or bundles.", show_default=False),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What clients call it; once for each model, in order. Default: the name of the "
            "file or folder; of a store, its model's.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0 serves the whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="0 takes a free one, which is printed.")
    ] = 8080,
    slots: Annotated[
        int, typer.Option("--slots", metavar="N", help="Answers that are computed at a time.")
    ] = 4,
    context: Annotated[
        int,
        typer.Option("--context", metavar="N", help="Tokens of one prompt and its answer."),
    ] = 2048,
    template: options.Template = None,
    kv_type: options.KvType = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=FILE",
            help="A LoRA adapter of the model, as a model of that name; may be repeated. With "
            "several models: NAME=FILE@MODEL.",
        ),
    ] = None,
    prompt_cache: options.PromptCache = "512M",  # type: ignore[assignment]
    ubatch: options.Ubatch = 512,
    ram: options.UsableRam = None,
    threads: options.Threads = None,
    draft: options.Draft = None,
    guess: options.Guess = None,
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", help="Requests that may wait for a slot.")
    ] = 64,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar=_KEY_VARIABLE,
            help="Clients must give it; may be repeated.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors", metavar="ORIGIN", help="Web pages from there may ask; '*' allows all."
        ),
    ] = None,
    allow_grammars: Annotated[
        bool,
        typer.Option(
            "--allow-grammars",
            help="Requests may give grammars; a bad one can occupy the server for good.",
        ),
    ] = False,
    most_body: Annotated[
        int,
        typer.Option(
            "--most-body", parser=parse_bytes, metavar="S", help="Largest request that is read."
        ),
    ] = "4M",  # type: ignore[assignment]
    grace: Annotated[
        int,
        typer.Option(
            "--grace", metavar="SECONDS", help="For answers to end in, when the server is stopped."
        ),
    ] = 30,
    json: Annotated[
        bool, typer.Option("--json", help="Print the address as one line of JSON.")
    ] = False,
) -> None:
    """Answer over HTTP, as OpenAI's API does, and show a page to chat with.

    Ctrl-C, or SIGTERM, lets answers come to their end first; a second Ctrl-C does not.

    Examples:
        edgeslm serve model.gguf
        edgeslm serve packed/ --name helper --host 0.0.0.0 --api-key SECRET
        edgeslm serve writer.gguf coder.gguf --slots 2 --context 4096
        edgeslm serve model.gguf --adapter poet=poet.gguf --adapter clerk=clerk.gguf
    """
    try:
        from edgeslm.runtime.server import serving
        from edgeslm.runtime.server.app import Server, ServerOptions
        from edgeslm.runtime.server.guarding import Access
        from edgeslm.runtime.server.hosted import HostOptions
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"serving needs {error.name}, which is not installed",
            hint="Install it with: pip install 'edgeslm[serve]'",
        ) from error
    from edgeslm.bundle.model_path import find_model, pinned

    if not all(key.strip() for key in api_key or ()):
        raise InvalidOption("an API key is empty", hint="Give one, or leave --api-key out.")
    names = names_of(models, name or [])
    models = [pinned(model) for model in models]  # a store may get another version meanwhile
    if draft is not None and len(models) > 1:
        raise InvalidOption(
            "one draft model for several models", hint="Serve one of them, or leave --draft out."
        )
    host_options = HostOptions(
        slots=slots,
        context=context,
        queue=queue,
        kv_type=kv_type_of(models, kv_type),
        ubatch=ubatch if "ubatch" in given(invocation) else None,
        threads=threads,
        grammars=allow_grammars,
        template=None if template is None else read_text(template),
        state_bytes=prompt_cache,
        speculate=options.speculate(draft, guess),
        draft=None if draft is None else find_model(draft, to_run=True),
    )
    specialists = [read_adapter(wish, names) for wish in adapter or ()]
    taken = [*names, *(each.name for each in specialists)]
    specialists += packed_adapters(dict(zip(names, models, strict=True)), taken)
    refuse_equal([*names, *(each.name for each in specialists)])
    host_options = fitted_host(
        models,
        host_options,
        ram,
        given(invocation),
        size_of(*(each.file for each in specialists)),
    )
    with serving.listen(host, port) as listening, ExitStack() as stack:
        local = serving.is_loopback(listening)
        if not local and not api_key:
            output.warn("everybody who reaches this machine can ask; --api-key asks for a key")
        served = open_models(stack, dict(zip(names, models, strict=True)), host_options)
        served += open_specialists(served, specialists)
        access = Access(tuple(api_key or ()), tuple(cors or ()), local)
        server = Server(served, ServerOptions(access, most_body))
        address = serving.address(listening)
        called = [each.name for each in served]

        def on_start() -> None:
            if json:
                said = {
                    "address": address,
                    "models": called,
                    "process": os.getpid(),
                }
                print(dumps(said), flush=True)
            else:
                print(f"{', '.join(called)}: {address}", flush=True)
                print("The page to chat with is there too. Ctrl-C ends it.", file=sys.stderr)

        serving.serve(
            server.app(), listening, grace=grace, on_start=on_start, cut_off=server.cut_off
        )
