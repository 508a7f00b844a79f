"""A reference held open: what it predicts is computed once and compared with many models.

For each chunk the reference's results are kept on disk, as hidden states where the logits can
be computed from them again, else as logits in 16 bits. Each chunk is a file of its own, named
after the model, the tokens and the build of llama.cpp: an interrupted run goes on where it was,
and a longer text only adds to what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidOption, Unsupported
from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header
from edgeslm.gguf.validation import read_model
from edgeslm.llama.model import Model
from edgeslm.llama.native import build_info
from edgeslm.packager.evaluate.card import ModelIdentity, identify
from edgeslm.packager.evaluate.chunks import ChunkReader, counted, cut, require_suitable
from edgeslm.packager.evaluate.divergence import Average, TokenFigures, compare, join
from edgeslm.packager.evaluate.head import OutputHead
from edgeslm.packager.evaluate.store import MOST_BYTES, Arrays, Store, key_of
from edgeslm.packager.evaluate.tasks import TaskFile, score
from edgeslm.packager.evaluate.text import EvaluationText, sampled_text, text_of_file
from edgeslm.progress import bar
from edgeslm.units import format_bytes

SAMPLED_CHUNKS = 16
"""Chunks of sampled text, where nothing else is asked for."""
_VERSION = 1
_CHECKED_ROWS = 8
_LARGEST_CODE = 65535
_LOGITS_AT_ONCE = 1 << 26
"""Numbers in the reference's logits held at once: 256 MiB."""


class Reference:
    """What one model predicts on one text.

    Computes what is not kept from an earlier run; then the model is closed again.

    Args:
        path: A GGUF file, best the one others were quantized from.
        text: A text file; None for text that the reference says itself.
        length: Tokens in a chunk.
        chunks: How many; None for the whole file, or 16 of sampled text.
        threads: How many to compute with.
        store: Where results are kept; None for the cache folder.
        header: Its header, where `read_model` has read it already.

    Raises:
        InvalidOption: the text is too short, or a chunk longer than the model's context.
        Unsupported: an embedding model.
        NativeFailure: llama.cpp failed, or computed what is no number.
        OutputFailure: results cannot be kept.
    """

    def __init__(
        self,
        path: Path,
        text: Path | None = None,
        *,
        length: int = 512,
        chunks: int | None = None,
        threads: int = 1,
        store: Store | None = None,
        header: Header | None = None,
    ) -> None:
        self.length, self.threads = length, threads
        self._store = store or Store()
        self._scores: dict[str, tuple[Average, Average]] = {}
        self.header = header or read_model(path)
        with Model(path, header=self.header) as model:
            require_suitable(model, length)
            self.identity: ModelIdentity = identify(self.header)
            self.text = self._read(model, text, chunks)
            tokens = model.tokenize(self.text.text, add_special=True)
            self.chunks = cut(model, tokens, length, self._most(chunks))
            self._head = OutputHead(self.header)
            self._compute(model)

    def scores(self, tasks: TaskFile) -> tuple[Average, Average]:
        """The reference's own scores, computed once."""
        if tasks.sha256 not in self._scores:
            with Model(self.header.path) as model:
                self._scores[tasks.sha256] = score(model, tasks, self.threads)
        return self._scores[tasks.sha256]

    def figures(self, model: Model, header: Header | None = None) -> TokenFigures:
        """The model's predictions against the reference's, in the order of the text.

        Args:
            model: An open model.
            header: Its header, where that has been read already.

        Raises:
            Unsupported: an embedding model, or one with another vocabulary.
            InvalidOption: a chunk is longer than its context.
            NativeFailure: llama.cpp failed, or computed what is no number.
        """
        require_suitable(model, self.length)
        require_same_vocabulary(self.header, header or model.header)
        parts = []
        with (
            ChunkReader(model, self.length, self.threads) as reader,
            bar("Comparing", total=len(self.chunks), unit="chunks") as advance,
        ):
            for chunk in self.chunks:
                expected = _Expected(self._head, self._stored(chunk))
                for rows in reader.rows(chunk):
                    theirs = expected.logits(rows.first, rows.first + len(rows.targets))
                    parts.append(compare(theirs, rows.logits, rows.targets))
                advance(1)
        return join(parts)

    def _most(self, chunks: int | None) -> int | None:
        return SAMPLED_CHUNKS if chunks is None and self.text.source == "sampled" else chunks

    def _read(self, model: Model, text: Path | None, chunks: int | None) -> EvaluationText:
        if text is not None:
            return text_of_file(text)
        least = self.length * (chunks or SAMPLED_CHUNKS)
        return sampled_text(model, self.identity.sha256, self._store, least, self.threads)

    def _key(self, chunk: Sequence[int]) -> str:
        build = build_info()
        return key_of("chunk", _VERSION, self.identity.sha256, chunk, build.binding, build.features)

    def _compute(self, model: Model) -> None:
        """Have the results of every chunk on disk."""
        missing = [chunk for chunk in self.chunks if not self._store.holds(self._key(chunk))]
        if not missing:
            return
        with (
            ChunkReader(model, self.length, self.threads) as reader,
            bar("Reference", total=len(missing), unit="chunks") as advance,
        ):
            for chunk in missing:
                self._store.save(self._key(chunk), self._results(reader, chunk))
                advance(1)

    def _results(self, reader: ChunkReader, chunk: Sequence[int]) -> Arrays:
        """What to keep of a chunk: `hidden`, or `codes`, `scale` and `least`."""
        parts: list[Arrays] = []
        can_rebuild: bool | None = None
        for rows in reader.rows(chunk, hidden=True):
            assert rows.hidden is not None  # noqa: S101  asked for
            if can_rebuild is None:
                some = slice(_CHECKED_ROWS)
                can_rebuild = self._head.agrees(rows.hidden[some], rows.logits[some])
                self._require_room(
                    4 * self._head.width if can_rebuild else 2 * self._head.vocabulary_size
                )
            parts.append({"hidden": rows.hidden.copy()} if can_rebuild else packed(rows.logits))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _require_room(self, row_bytes: int) -> None:
        each = row_bytes * counted(self.length)
        if each * len(self.chunks) > MOST_BYTES:
            raise InvalidOption(
                f"{self.header.path}: its predictions for {len(self.chunks)} chunks take "
                f"{format_bytes(each * len(self.chunks))} on disk, more than the cache may have",
                hint=f"Give --chunks {MOST_BYTES // each} or fewer, or a shorter --context.",
            )

    def _stored(self, chunk: Sequence[int]) -> Arrays:
        """The results of a chunk, computed again if they have gone or are damaged."""
        arrays = self._store.load(self._key(chunk))
        if arrays is not None and self._is_whole(arrays):
            return arrays
        with (
            Model(self.header.path) as model,
            ChunkReader(model, self.length, self.threads) as reader,
        ):
            arrays = self._results(reader, chunk)
        self._store.save(self._key(chunk), arrays)
        return arrays

    def _is_whole(self, arrays: Arrays) -> bool:
        rows, vocabulary = counted(self.length), self._head.vocabulary_size
        shapes = {name: array.shape for name, array in arrays.items()}
        return shapes in (
            {"hidden": (rows, self._head.width)},
            {"codes": (rows, vocabulary), "scale": (rows, 1), "least": (rows, 1)},
        )


def packed(logits: NDArray[np.float32]) -> Arrays:
    """Logits in 16 bits: each row's range in 65535 steps. What rounds is under a thousandth."""
    least = logits.min(axis=1, keepdims=True)
    scale = (logits.max(axis=1, keepdims=True) - least) / np.float32(_LARGEST_CODE)
    steps = np.divide(logits - least, scale, out=np.zeros_like(logits), where=scale > 0)
    return {"codes": np.rint(steps).astype(np.uint16), "scale": scale, "least": least}


def unpacked(arrays: Arrays) -> NDArray[np.float32]:
    """The logits in what `packed` gave."""
    logits: NDArray[np.float32] = arrays["codes"] * arrays["scale"] + arrays["least"]
    return logits


def require_same_vocabulary(reference: Header, model: Header) -> None:
    """Return if token ids mean the same in both.

    Raises:
        Unsupported: they don't.
    """
    ours, theirs = (header.get("tokenizer.ggml.tokens") for header in (reference, model))
    if ours == theirs:
        return
    difference = "other tokens"
    if isinstance(ours, (tuple, Array)) and isinstance(theirs, (tuple, Array)):
        difference = f"{len(theirs)} tokens against {len(ours)}"
        if len(ours) == len(theirs):
            pairs = enumerate(zip(ours, theirs, strict=True))
            at = next(index for index, (own, other) in pairs if own != other)
            difference = f"token {at} is {theirs[at]!r} against {ours[at]!r}"
    raise Unsupported(
        f"{model.path} has another vocabulary than {reference.path}: {difference}",
        hint="Compare a model with the one it was made from.",
    )


class _Expected:
    """The reference's logits for a chunk, made for many rows at once and handed out in parts."""

    def __init__(self, head: OutputHead, stored: Arrays) -> None:
        self._head = head
        self._stored = stored
        self._start = self._stop = 0
        self._logits: NDArray[np.float32]

    def logits(self, first: int, last: int) -> NDArray[np.float32]:
        """[last - first, vocabulary] of consecutive rows; asked for in their order."""
        if last > self._stop:
            most = max(last - first, _LOGITS_AT_ONCE // self._head.vocabulary_size)
            self._start, self._stop = first, first + most
            self._logits = self._made(slice(self._start, self._stop))
        return self._logits[first - self._start : last - self._start]

    def _made(self, rows: slice) -> NDArray[np.float32]:
        if "hidden" in self._stored:
            return self._head.logits(self._stored["hidden"][rows])
        return unpacked({name: array[rows] for name, array in self._stored.items()})
