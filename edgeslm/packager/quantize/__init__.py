"""Fewer bits per weight: a type by llama.cpp's name, the best mix for a budget, or a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.errors import InvalidOption
from edgeslm.files import ensure_writable
from edgeslm.gguf.validation import read_model
from edgeslm.llama.quantizer import refuse_same_file
from edgeslm.packager.quantize.effort import Effort
from edgeslm.packager.quantize.result import QuantizeResult
from edgeslm.packager.quantize.stock import quantize_stock
from edgeslm.packager.quantize.wishes import Wishes

if TYPE_CHECKING:
    from edgeslm.gguf.reader import Header
    from edgeslm.packager.quantize.mix import Mix, Session
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
    _refuse_contradictions(file_type, wishes, recipe, imatrix, effort, keep_recipe)
    for path in (output, keep_recipe):
        if path is not None:
            ensure_writable(path)
    refuse_same_file(source, output)
    if file_type is not None:
        result = quantize_stock(source, output, file_type, effort.threads, imatrix)
        return _explained(result, read_model(source), None) if explain else result
    header = read_model(source)
    # numpy comes with these, and costs what a small model takes to be quantized
    from edgeslm.packager.quantize.mix import changing, demands_of, session
    from edgeslm.packager.quantize.recipe import load_recipe, save_recipe

    names = changing(header)
    wishes = wishes or Wishes()
    if recipe is not None:
        loaded = load_recipe(recipe)
        types = loaded.types_for(header, names)

        def choose(work: Session) -> Mix:
            return work.replayed(loaded, types)

        if loaded.replay.encoder == "ggml" and effort.calibration is None:
            effort = dataclasses.replace(effort, quick=True)
    else:
        demands = demands_of(header, names, wishes, target, quick=effort.quick)

        def choose(work: Session) -> Mix:
            return work.choose(demands)

    with session(header, names, effort) as work:
        mix = choose(work)
        if keep_recipe is not None:
            save_recipe(keep_recipe, work.recipe(mix, wishes))
        result = work.write(mix, output)
    return _explained(result, header, mix) if explain else result


def _refuse_contradictions(
    file_type: str | None,
    wishes: Wishes | None,
    recipe: Path | None,
    imatrix: Path | None,
    effort: Effort,
    keep_recipe: Path | None,
) -> None:
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
    if file_type is not None and (effort.quick or effort.calibration is not None):
        raise InvalidOption(
            "a type is written without calibration",
            hint="Leave out --calibration and --quick, or give a budget such as --bits 4.5.",
        )
    if file_type is not None and keep_recipe is not None:
        raise InvalidOption(
            "a type is no mix to save a recipe of",
            hint="Leave out --save-recipe, or give a budget such as --bits 4.5.",
        )


def _explained(result: QuantizeResult, source: Header, mix: Mix | None) -> QuantizeResult:
    """The result with its mix in figures; of a type by name nothing is known but the types."""
    from edgeslm.packager.quantize.explain import explain as explain_mix

    if mix is None:
        types = {tensor.name: tensor.type for tensor in read_model(result.path).tensors}
        matrices = [tensor.name for tensor in source.tensors if len(tensor.shape) > 1]
        explanation = explain_mix(source, {name: types[name] for name in matrices}, {}, None)
    else:
        explanation = explain_mix(source, mix.types, mix.losses, mix.price)
    return dataclasses.replace(result, explanation=explanation)
