"""Fewer bits per weight: a type by llama.cpp's name, the best mix for a budget, or a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.errors import InvalidOption
from edgeslm.gguf.validation import read_model
from edgeslm.packager.quantize.effort import Effort
from edgeslm.packager.quantize.result import QuantizeResult
from edgeslm.packager.quantize.stock import quantize_stock
from edgeslm.packager.quantize.wishes import Wishes

if TYPE_CHECKING:
    from edgeslm.targets.target import Target

__all__ = ["Effort", "QuantizeResult", "Wishes", "quantize"]


def quantize(
    source: Path,
    output: Path,
    *,
    file_type: str | None = None,
    wishes: Wishes | None = None,
    recipe: Path | None = None,
    target: Target | None = None,
    imatrix: Path | None = None,
    effort: Effort | None = None,
    keep_recipe: Path | None = None,
    explain: bool = False,
) -> QuantizeResult:
    """Write the GGUF file `source` quantized to `output`.

    Args:
        source: Any GGUF model file; best one of float weights.
        output: Where the result appears once it is complete.
        file_type: A type by llama.cpp's name, such as Q4_K_M.
        wishes: Or what the file may take: bits, bytes, memory, time or energy.
        recipe: Or the file of a mix that was chosen before.
        target: The board that wishes about memory, time and energy are for.
        imatrix: With a type: an importance matrix of this model, to weight the rounding with.
        effort: How much to find out before a mix is chosen.
        keep_recipe: Where to write the mix that was chosen.
        explain: Put the mix in figures into the result.

    Raises:
        InvalidOption: not exactly one of the three, an unknown type, or a wish out of reach.
        InvalidGGUF, NotFound: the source is no sound model file, or `imatrix` no such matrix.
        InvalidRecipe: the recipe is malformed or does not fit the model.
        Unsupported: the type needs an importance matrix for this model, or the one given is
            for another model.
        OutputFailure: the output cannot be written.
        NativeFailure: llama.cpp refused or crashed.
    """
    effort = effort or Effort()
    if [file_type, wishes, recipe].count(None) != 2:
        raise InvalidOption(
            "exactly one of a type, a budget and a recipe says how to quantize",
            hint="Give one of --type Q4_K_M, --bits 4.5, --size 90M or --recipe FILE.",
        )
    if imatrix is not None and file_type is None:
        raise InvalidOption(
            "an importance matrix goes with a type",
            hint="Give a --type with it, or leave --imatrix out.",
        )
    if file_type is not None:
        return quantize_stock(source, output, file_type, effort.threads, imatrix)
    header = read_model(source)
    # numpy comes with these, and costs what a small model takes to be quantized
    from edgeslm.packager.quantize.explain import explain as explain_mix
    from edgeslm.packager.quantize.mix import demands_of, session
    from edgeslm.packager.quantize.recipe import load_recipe, save_recipe

    loaded = load_recipe(recipe) if recipe is not None else None
    wishes = wishes or Wishes()
    demands = None if loaded else demands_of(header, wishes, target, quick=effort.quick)
    with session(header, effort) as work:
        if loaded is not None:
            mix = work.replayed(loaded)
        else:
            assert demands is not None  # noqa: S101  there is one without a recipe
            mix = work.choose(demands)
        if keep_recipe is not None:
            save_recipe(keep_recipe, work.recipe(mix, wishes))
        result = work.write(mix, output)
    if explain:
        explanation = explain_mix(header, mix.types, mix.losses, mix.price)
        result = dataclasses.replace(result, explanation=explanation)
    return result
