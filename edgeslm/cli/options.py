"""Arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeslm.errors import InvalidOption
from edgeslm.units import parse_bits, parse_bytes

if TYPE_CHECKING:
    from edgeslm.runtime.generation import Speculate

Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A GGUF file, or a bundle.", show_default=False),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="PATH", help="Where to write.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Bits = Annotated[
    float | None,
    typer.Option("--bits", parser=parse_bits, metavar="B", help="Bits per weight, any number: 4.5"),
]
Size = Annotated[
    int | None,
    typer.Option("--size", parser=parse_bytes, metavar="S", help="Size of the file: 90M, 1.5G"),
]
FileType = Annotated[
    str | None,
    typer.Option("--type", metavar="TYPE", help="A type by llama.cpp's name: Q4_K_M, Q8_0, ..."),
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="ID", help="A board; see them with: edgeslm targets list"),
]
Context = Annotated[int, typer.Option("--context", metavar="N", help="Context length in tokens.")]
KvType = Annotated[
    str | None,
    typer.Option(
        "--kv-type",
        metavar="TYPE",
        help="Type of the KV cache: F16, Q8_0, ..., auto (as tuned); default: F16, or as the "
        "model was packed.",
    ),
]


def _bytes_or_none(text: str) -> int:
    return 0 if text.strip() == "0" else parse_bytes(text)


PromptCache = Annotated[
    int,
    typer.Option(
        "--prompt-cache",
        parser=_bytes_or_none,
        metavar="S",
        help="Disk space for the states of long system prompts; 0 keeps none.",
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="A LoRA adapter in GGUF, made for the model; or the name of one in its bundle.",
    ),
]
Ubatch = Annotated[
    int,
    typer.Option("--ubatch", metavar="N", help="Tokens of a prompt that are computed at once."),
]
UsableRam = Annotated[
    int | None,
    typer.Option(
        "--ram", parser=parse_bytes, metavar="S", help="Memory it may take; default: what is free."
    ),
]
Meter = Annotated[
    str | None,
    typer.Option(
        "--meter",
        metavar="METER",
        help="A power meter: shelly://HOST, tasmota://HOST, a name that doctor shows, or none; "
        "default: $EDGESLM_METER, or the best there is.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", "-t", metavar="N", help="Threads; default: as tuned, or as many as help here."
    ),
]
Draft = Annotated[
    Path | None,
    typer.Option(
        "--draft",
        metavar="MODEL",
        help="A smaller model of the same vocabulary that guesses ahead, where that is faster.",
    ),
]
Guess = Annotated[
    bool | None,
    typer.Option(
        "--speculate/--no-speculate",
        help="Guess tokens ahead from the text, where that is faster; default: unless a seed or "
        "temperature 0 asks for the same answer again.",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option("--tokens", "-n", metavar="N", help="Most tokens to answer with.")
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", metavar="T", help="0 takes the likeliest token every time."),
]
TopK = Annotated[int, typer.Option("--top-k", metavar="K", help="Keep the K likeliest tokens.")]
TopP = Annotated[
    float, typer.Option("--top-p", metavar="P", help="Keep tokens up to this joint probability.")
]
MinP = Annotated[
    float, typer.Option("--min-p", metavar="P", help="Drop tokens this much less likely.")
]
RepeatPenalty = Annotated[
    float, typer.Option("--repeat-penalty", metavar="R", help="Above 1 avoids repetition.")
]
PresencePenalty = Annotated[
    float,
    typer.Option("--presence-penalty", metavar="P", help="Above 0 avoids words that came before."),
]
FrequencyPenalty = Annotated[
    float,
    typer.Option("--frequency-penalty", metavar="P", help="The same, for each time they came."),
]
Dry = Annotated[
    float,
    typer.Option(
        "--dry", metavar="M", help="Avoid whole phrases that came before; 0.8 is usual, 0 is off."
    ),
]
Xtc = Annotated[
    float,
    typer.Option(
        "--xtc", metavar="P", help="How often to leave out the most obvious tokens; 0 never."
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="The same seed, the same answer.")
]
System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="What the model is told to be.")
]
Template = Annotated[
    Path | None,
    typer.Option(
        "--template", metavar="FILE", help="A chat template in Jinja, instead of the model's own."
    ),
]
Ram = Annotated[
    int | None,
    typer.Option(
        "--ram", parser=parse_bytes, metavar="S", help="All the memory it may take: 300M, 1.5G"
    ),
]
MinSpeed = Annotated[
    float | None,
    typer.Option("--min-tps", metavar="N", help="Tokens per second to reach on the target."),
]
MaxEnergy = Annotated[
    float | None,
    typer.Option(
        "--max-joules-per-token", metavar="J", help="Energy a token may take on the target."
    ),
]
PlannedContext = Annotated[
    int | None,
    typer.Option(
        "--context", metavar="N", help="Context length to plan for; default: the target's."
    ),
]
PlannedKvType = Annotated[
    str | None,
    typer.Option("--kv-type", metavar="TYPE", help="Type of the KV cache; default: the target's."),
]
PlannedUbatch = Annotated[
    int | None,
    typer.Option("--ubatch", metavar="N", help="Tokens computed at once; default: 512."),
]
PlannedSlots = Annotated[
    int | None,
    typer.Option("--slots", metavar="N", help="Answers at a time, as serve has them; default: 1."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="Text to calibrate on; default: what the model itself says.",
    ),
]
CalibrationTokens = Annotated[
    int | None,
    typer.Option(
        "--calibration-tokens", metavar="N", help="How much of it to read; default: 8192."
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="No calibration: seconds instead of minutes, more loss.")
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", metavar="FILE", help="Use the mix in this file.")
]
SaveRecipe = Annotated[
    Path | None,
    typer.Option("--save-recipe", metavar="FILE", help="Write the chosen mix to a file."),
]


def speculate(draft: Path | None, wanted: bool | None) -> Speculate:
    """What --draft and --speculate say together.

    Raises:
        InvalidOption: they contradict each other.
    """
    if draft is not None and wanted is False:
        raise InvalidOption(
            "--draft and --no-speculate exclude each other", hint="Use one of them."
        )
    if wanted is None:
        return "auto" if draft is None else "on"
    return "on" if wanted else "off"
