"""The sensitivities of a model on a text, kept in a folder: what was computed once stays.

Two passes. The first, over a few sequences, finds the factors of `equalize`; the second takes
the equalized model forward and back again, one block at a time, and keeps each block's forms as
soon as they are known. A study that was interrupted goes on where it stopped and ends with
the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeslm import progress
from edgeslm.errors import reading, writing
from edgeslm.files import atomic_path
from edgeslm.packager.quantize.decoder import INPUTS, Block, Shape
from edgeslm.packager.quantize.equalize import Moments, equalized
from edgeslm.packager.quantize.sensitivity import (
    EMBEDDING,
    HEAD,
    Sensitivity,
    Top,
    block_pass,
    embed,
    head_sensitivities,
    top,
)
from edgeslm.packager.quantize.threads import in_order, one_blas_thread
from edgeslm.packager.quantize.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

VERSION = 4
"""Raised when the same inputs give other results than before."""
_LIGHT_SEQUENCES = 4
_MOMENTS = "moments.npz"


@dataclass(frozen=True)
class Study:
    """What there is to know: of which weights, from which text, kept where."""

    folder: Path
    weights: Weights
    shape: Shape
    tokens: NDArray[np.int32]
    """[sequences, length]."""
    threads: int = 1
    seed: int = 0

    def run(self) -> Weights:
        """Do what is not done yet; gives the equalized weights, which the results are of.

        Raises:
            OutputFailure: the folder cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._complete.exists():
            self._tidy()
            return self._equalized()
        blocks = len(self.shape.layers)
        light = min(_LIGHT_SEQUENCES, len(self.tokens))
        total = 2 * blocks * light + 2 * blocks * len(self.tokens)
        with (
            progress.bar("finding what errors cost", total, unit="passes") as advance,
            ThreadPoolExecutor(self.threads) as pool,
            one_blas_thread(),
        ):
            if self._moments.exists():
                weights = self._equalized()
            else:
                weights = self._first(light, pool, advance)
            self._second(weights, pool, advance)
        return weights

    def of(self, name: str) -> Sensitivity:
        """Of one matrix, by its full name."""
        return _load(*self._place(name))

    def outputs_of(self, name: str) -> Array:
        """The form of the rows alone, of a coupled matrix."""
        path, short = self._place(name)
        with reading(path), np.load(path) as stored:
            return _unpacked(stored[f"G|{short}"], stored[f"Gd|{short}"])

    def without_outputs(self, name: str) -> Sensitivity:
        """The same as `of`, but for the rows only what each counts: their form may be large."""
        return _load(*self._place(name), outputs=False)

    def _place(self, name: str) -> tuple[Path, str]:
        """Where a matrix's forms are, and under which name."""
        if name.startswith("blk."):
            _, index, short, _ = name.split(".", 3)
            return self._block(int(index)), short
        return self.folder / "top.npz", name

    @property
    def coupled(self) -> frozenset[str]:
        """The matrices of the blocks, in which rows interact."""
        blocks = range(len(self.shape.layers))
        return frozenset(f"blk.{index}.{name}.weight" for index in blocks for name in INPUTS)

    def names(self) -> frozenset[str]:
        """The matrices it covers."""
        heads = (name for name in (EMBEDDING, HEAD) if self.weights.find(name))
        return self.coupled.union(heads)

    @staticmethod
    def begun(folder: Path) -> bool:
        """Whether there are results in a folder."""
        return (folder / _MOMENTS).exists()

    @property
    def _complete(self) -> Path:
        return self.folder / "complete"

    @property
    def _moments(self) -> Path:
        return self.folder / _MOMENTS

    def _block(self, index: int) -> Path:
        return self.folder / f"block-{index:03}.npz"

    def _activation(self, index: int) -> Path:
        return self.folder / f"activation-{index:03}.npy"

    def _gradient(self, index: int) -> Path:
        return self.folder / f"gradient-{index:03}.npy"

    def _equalized(self) -> Weights:
        with reading(self._moments), np.load(self._moments) as stored:
            names = {key.partition("|")[2] for key in stored.files}
            moments = {name: Moments(stored[f"x|{name}"], stored[f"z|{name}"]) for name in names}
        return equalized(self.weights, self.shape, moments)

    def _first(
        self, sequences: int, pool: ThreadPoolExecutor, advance: Callable[[int], None]
    ) -> Weights:
        """The moments of a few sequences."""
        given = [[embed(self.weights, self.shape, row) for row in self.tokens[:sequences]]]
        blocks = range(len(self.shape.layers))
        for index in blocks:
            block = self._loaded(self.weights, index)
            given.append(list(pool.map(block.forward, given[-1])))
            advance(sequences)
        last = given.pop()
        gradients = top(self.weights, self.shape, last, self.seed, pool, self.threads).gradients
        arrays: dict[str, Array] = {}
        for index in reversed(blocks):
            block = self._loaded(self.weights, index)
            gradients, tallies = block_pass(
                block, given.pop(), gradients, pool, self.threads, full=False
            )
            for short, tally in tallies.items():
                moments = tally.moments()
                arrays[f"x|blk.{index}.{short}.weight"] = moments.input
                arrays[f"z|blk.{index}.{short}.weight"] = moments.gradient
            advance(sequences)
        _save(self._moments, arrays)
        return self._equalized()

    def _second(
        self, weights: Weights, pool: ThreadPoolExecutor, advance: Callable[[int], None]
    ) -> None:
        blocks = len(self.shape.layers)
        reached = next((at for at in range(blocks + 1) if self._gradient(at).exists()), None)
        if reached is None:
            self._forward(weights, pool, advance)
            self._turn(weights, pool)
            reached = blocks
        else:
            advance((2 * blocks - reached) * len(self.tokens))
        for index in reversed(range(reached)):
            self._back(weights, index, pool)
            advance(len(self.tokens))
        self._finish(weights)

    def _turn(self, weights: Weights, pool: ThreadPoolExecutor) -> None:
        """From the last block's output to the gradient by it."""
        blocks = len(self.shape.layers)
        given = _arrays(self._activation(blocks))
        result = top(weights, self.shape, given, self.seed, pool, self.threads)
        _save_top(self.folder / "draws.npz", result)
        _save_arrays(self._gradient(blocks), result.gradients, self._form)
        self._activation(blocks).unlink()

    def _forward(
        self, weights: Weights, pool: ThreadPoolExecutor, advance: Callable[[int], None]
    ) -> None:
        """Each block's input, on disk."""
        if not self._activation(0).exists():
            start = (embed(weights, self.shape, row.tolist()) for row in self.tokens)
            _save_arrays(self._activation(0), start, self._form)
        for index in range(len(self.shape.layers)):
            if not self._activation(index + 1).exists():
                block = self._loaded(weights, index)
                given = _arrays(self._activation(index))
                after = in_order(block.forward, given, pool, self.threads)
                _save_arrays(self._activation(index + 1), after, self._form)
            advance(len(self.tokens))

    def _back(self, weights: Weights, index: int, pool: ThreadPoolExecutor) -> None:
        block = self._loaded(weights, index)
        given = _arrays(self._activation(index))
        gradients = _arrays(self._gradient(index + 1))
        back, tallies = block_pass(block, given, gradients, pool, self.threads, full=True)
        results = {short: tallies.pop(short).result() for short in list(tallies)}
        _save_all(self._block(index), results)
        _save_arrays(self._gradient(index), back, self._form)
        with writing(self.folder):
            self._activation(index).unlink()
            self._gradient(index + 1).unlink()

    def _finish(self, weights: Weights) -> None:
        result = _load_top(self.folder / "draws.npz")
        scale = np.float32(self.shape.width if self.shape.gemma else 1)
        total = sum(gradient.T @ gradient for gradient in _arrays(self._gradient(0)))
        by_embedding = total * (scale / np.float32(self.tokens.size))
        _save_all(self.folder / "top.npz", head_sensitivities(weights, result, by_embedding))
        with writing(self._complete):
            self._complete.touch()
        self._tidy()

    def _tidy(self) -> None:
        """Remove what only a study that goes on needs."""
        with writing(self.folder):
            for scratch in (*self.folder.glob("activation-*"), *self.folder.glob("gradient-*")):
                scratch.unlink()

    @property
    def _form(self) -> tuple[int, ...]:
        """[sequences, tokens, width]."""
        return (*self.tokens.shape, self.shape.width)

    def _loaded(self, weights: Weights, index: int) -> Block:
        return Block(self.shape, index, weights.block(index), self.tokens.shape[1])


def _save(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    with atomic_path(path) as temporary, writing(path), temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _save_arrays(path: Path, parts: Iterable[Array], form: tuple[int, ...]) -> None:
    """Arrays of one shape as one array, written as they come."""
    with atomic_path(path) as temporary, writing(path), temporary.open("wb") as file:
        kind = {"descr": "<f4", "fortran_order": False, "shape": form}
        np.lib.format.write_array_header_1_0(file, kind)
        for part in parts:
            file.write(np.ascontiguousarray(part, "<f4").data)


def _arrays(path: Path) -> list[Array]:
    """What `_save_arrays` wrote, read from the disk as it is used."""
    with reading(path):
        return list(np.load(path, mmap_mode="r"))


def _save_top(path: Path, result: Top) -> None:
    noise = json.dumps({str(size): cost for size, cost in result.noise.items()})
    _save(
        path,
        {
            "probabilities": result.probabilities,
            "spread": result.spread,
            "hidden": result.hidden,
            "noise": np.array(noise),
        },
    )


def _load_top(path: Path) -> Top:
    with reading(path), np.load(path) as stored:
        noise = {int(size): cost for size, cost in json.loads(str(stored["noise"])).items()}
        return Top([], stored["probabilities"], stored["spread"], stored["hidden"], noise)


def _save_all(path: Path, results: Mapping[str, Sensitivity]) -> None:
    """Forms as half of a correlation matrix in half precision, a quarter of their size."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, result in results.items():
        forms = {"H": result.inputs} | ({} if result.outputs is None else {"G": result.outputs})
        for kind, matrix in forms.items():
            arrays[f"{kind}|{name}"], arrays[f"{kind}d|{name}"] = _packed(matrix)
        if result.rows is not None:
            arrays[f"rows|{name}"] = result.rows
        noise = {str(size): cost for size, cost in result.noise.items()}
        arrays[f"noise|{name}"] = np.array(json.dumps(noise))
    _save(path, arrays)


def _load(path: Path, name: str, *, outputs: bool = True) -> Sensitivity:
    with reading(path), np.load(path) as stored:
        files = set(stored.files)
        coupled = f"G|{name}" in files
        rows = stored[f"rows|{name}"] if f"rows|{name}" in files else None
        if coupled and not outputs:
            rows = np.square(stored[f"Gd|{name}"])
        noise = json.loads(str(stored[f"noise|{name}"]))
        return Sensitivity(
            inputs=_unpacked(stored[f"H|{name}"], stored[f"Hd|{name}"]),
            outputs=_unpacked(stored[f"G|{name}"], stored[f"Gd|{name}"])
            if outputs and coupled
            else None,
            rows=rows,
            noise={int(size): cost for size, cost in noise.items()},
        )


def _packed(matrix: Array) -> tuple[NDArray[np.float16], Array]:
    """The upper triangle of the correlation matrix, row after row, and the diagonal's root."""
    root = np.sqrt(np.maximum(np.diag(matrix), 1e-30))
    parts = [matrix[i, i:] / (root[i] * root[i:]) for i in range(len(matrix))]
    return np.concatenate(parts).astype(np.float16), root.astype(np.float32)


def _unpacked(packed: NDArray[np.float16], root: Array) -> Array:
    n = len(root)
    full = np.empty((n, n), np.float32)
    at = 0
    for i in range(n):
        row = packed[at : at + n - i].astype(np.float32) * (root[i] * root[i:])
        full[i, i:], full[i:, i] = row, row
        at += n - i
    return full
