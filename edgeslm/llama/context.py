"""A context: the KV cache and the compute buffers in which a model runs.

Positions are the caller's business: a `Batch` says for each token where it stands, in
which sequence, and whether its logits are wanted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeslm.errors import InvalidOption, NativeFailure
from edgeslm.gguf.types import TENSOR_TYPES, kv_tensor_type
from edgeslm.llama import native, pages
from edgeslm.llama.adapter import Adapter
from edgeslm.llama.buffers import buffer_bytes
from edgeslm.llama.closing import Closing
from edgeslm.llama.model import Model
from edgeslm.signals import signals_deferred

_OK, _NO_SLOT, _ABORTED = 0, 1, 2
_CONTEXT_STEP = 256
_GROUP = 16
_MOST_LOGIT_BYTES = 16 << 20
_LIMITS = {"length": 2**31 - _CONTEXT_STEP, "threads": 512, "prefill_threads": 512}


@dataclass(frozen=True)
class ContextOptions:
    """Size and shape of a context.

    Attributes:
        length: Tokens the KV cache holds; llama.cpp rounds it up to a multiple of 256.
        batch: Most tokens in one decode call.
        ubatch: Tokens computed at once; the compute buffer grows with it.
        threads: Threads for decode (one token at a time).
        prefill_threads: Threads for prefill; None means the same as `threads`.
        kv_type: Type of cached keys and values, one that `kv_tensor_type` takes.
        sequences: Sequences that may live in the cache at once. Each has its part of `length`, and
            a stream of its own: what the others hold costs its tokens nothing.
        outputs: Most rows of logits one decode call may give. With one instead of a row per
            token of a batch, SmolLM2's compute buffer shrinks from 98 to 16 MiB.
        flash_attention: None lets llama.cpp decide.
        pooled: Make one vector of each sequence, as an embedding model does.
        as_it_fills: Take the memory of the KV cache not at once but when it is needed (Linux). No
            other thread may make buffers while the context is made.
    """

    length: int = 2048
    batch: int = 512
    ubatch: int = 512
    threads: int = 1
    prefill_threads: int | None = None
    kv_type: str = "F16"
    sequences: int = 1
    outputs: int = 1
    flash_attention: bool | None = None
    pooled: bool = False
    as_it_fills: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "batch", "ubatch", "threads", "sequences", "outputs"):
            if getattr(self, name) < 1:
                raise InvalidOption(
                    f"{name} must be at least 1, not {getattr(self, name)}",
                    hint="Leave it out to get a sensible default.",
                )
        for name, most in _LIMITS.items():
            if (getattr(self, name) or 0) > most:
                raise InvalidOption(
                    f"{name} must be at most {most}, not {getattr(self, name)}",
                    hint="Leave it out to get a sensible default.",
                )
        kv_tensor_type(self.kv_type)


class DecodeAborted(Exception):
    """Decoding stopped because the caller's `cancelled` said so; not an error."""


class Batch:
    """Tokens to decode together; reused between calls."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.native: Any = native.library().llama_batch_init(capacity, 0, 1)
        # Each access to a pointer in a structure makes an object: between two tokens that shows.
        self._tokens, self._positions = self.native.token, self.native.pos
        self._sequences, self._logits = self.native.seq_id, self.native.logits
        for index in range(capacity):
            self.native.n_seq_id[index] = 1

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    def clear(self) -> None:
        """Empty the batch."""
        self.native.n_tokens = 0

    def add(self, token: int, position: int, *, sequence: int = 0, logits: bool = False) -> None:
        """Append one token; `logits` asks for its output row."""
        index = self.native.n_tokens
        self._tokens[index] = token
        self._positions[index] = position
        self._sequences[index][0] = sequence
        self._logits[index] = logits
        self.native.n_tokens = index + 1

    def close(self) -> None:
        """Free the native arrays."""
        native.library().llama_batch_free(self.native)


class Context(Closing):
    """KV cache and compute buffers for one model.

    Raises:
        NativeFailure: llama.cpp could not allocate it; the message has its reason.
    """

    def __init__(
        self, model: Model, options: ContextOptions, *, evaluation_callback: Any = None
    ) -> None:
        lib = native.library()
        self.model = model
        self.options = options
        self._handle: Any
        self._handle, self.buffer_bytes = _create(model, options, evaluation_callback)
        self._memory: Any = lib.llama_get_memory(self._handle)
        self.threads = (options.threads, options.prefill_threads or options.threads)
        """For decode and prefill, now."""
        self.length = int(lib.llama_n_ctx(self._handle))
        self.sequence_length = self.length // options.sequences
        """Tokens that each sequence has room for."""
        self.most_tokens = min(options.batch, int(lib.llama_n_batch(self._handle)))
        """That one decode takes: llama.cpp makes do with less than asked for in a short context."""
        self._batch = Batch(self.most_tokens)
        self._adapter: Adapter | None = None
        self._row: Any = ctypes.c_float * model.vocabulary_size
        self._rows: dict[int, NDArray[np.float32]] = {}
        """Views of the buffer of logits, by where they begin."""
        self._cancelled: Callable[[], bool] = _never
        self._signals: list[int] = []
        self._abort_callback = lib.ggml_abort_callback(self._must_stop)
        self._no_callback = lib.ggml_abort_callback()

    def close(self) -> None:
        """Free the native context."""
        if self._handle is not None:
            self._batch.close()
            native.library().llama_free(self._handle)
            self._handle = None

    def prefill(
        self,
        tokens: Sequence[int],
        start: int = 0,
        *,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Decode `tokens` from position `start`; the last one's logits are kept.

        Raises:
            DecodeAborted: `cancelled` returned True; the cache may hold part of the tokens.
            NativeFailure: llama.cpp failed, or the tokens don't fit.
        """
        for first in range(0, len(tokens), self._batch.capacity):
            chunk = tokens[first : first + self._batch.capacity]
            last = first + len(chunk) == len(tokens)
            self._batch.clear()
            for index, token in enumerate(chunk):
                wanted = last and index == len(chunk) - 1
                self._batch.add(token, start + first + index, logits=wanted)
            self.decode(self._batch, cancelled=cancelled)

    def step(self, token: int, position: int) -> None:
        """Decode one token; its logits are kept."""
        self._batch.clear()
        self._batch.add(token, position, logits=True)
        self.decode(self._batch)

    def decode(self, batch: Batch, *, cancelled: Callable[[], bool] | None = None) -> None:
        """Run the model on `batch`.

        Args:
            batch: At most `options.batch` tokens.
            cancelled: Asked between operations of the graph; True stops the decode.

        Raises:
            DecodeAborted: `cancelled` returned True.
            NativeFailure: llama.cpp failed, or the cache is full.
        """
        mark = native.log_mark()
        if cancelled is None:
            # Nothing calls back into Python, where a signal's handler could raise: as short as can
            # be, since after each token the processor's caches hold nothing of ours any more.
            status = native.library().llama_decode(self._handle, batch.native)
        else:
            status = self._decode_until(batch, cancelled)
        if status == _OK:
            return
        if status == _ABORTED:
            raise DecodeAborted
        if status == _NO_SLOT:
            raise NativeFailure(
                f"the context of {self.length} tokens is full", hint="Use a longer --context."
            )
        raise NativeFailure(
            "llama.cpp failed to decode: "
            f"{native.reason(native.log_since(mark), f'status {status}')}",
            hint="Check the model with: edgeslm inspect FILE",
        )

    def _decode_until(self, batch: Batch, cancelled: Callable[[], bool]) -> int:
        """The status of a decode that `cancelled`, or a signal, can stop."""
        lib = native.library()
        self._cancelled = cancelled
        lib.llama_set_abort_callback(self._handle, self._abort_callback, None)
        try:
            with signals_deferred() as self._signals:
                return int(lib.llama_decode(self._handle, batch.native))
        finally:
            lib.llama_set_abort_callback(self._handle, self._no_callback, None)

    def _must_stop(self, _data: object) -> bool:
        return bool(self._signals) or self._cancelled()

    def use_adapter(self, adapter: Adapter | None) -> None:
        """Have what is decoded from now on changed by an adapter, or by none.

        What is cached stays as it was computed.
        """
        if adapter is self._adapter:
            return
        lib = native.library()
        if adapter is None:
            lib.llama_set_adapters_lora(self._handle, None, 0, None)
        else:
            handles = (lib.llama_adapter_lora_p_ctypes * 1)(adapter.handle)
            lib.llama_set_adapters_lora(
                self._handle, handles, 1, (ctypes.c_float * 1)(adapter.strength)
            )
        self._adapter = adapter

    def set_threads(self, decode: int, prefill: int) -> None:
        """Use so many threads from the next decode on: for one token, and for several."""
        self.threads = (max(1, decode), max(1, prefill))
        native.library().llama_set_n_threads(self._handle, *self.threads)

    def synchronize(self) -> None:
        """Wait until everything submitted has been computed."""
        native.library().llama_synchronize(self._handle)

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """Logits of output row `index` of the last batch, shape (vocabulary,).

        A view of llama.cpp's buffer: it changes at the next decode.
        """
        pointer = native.library().llama_get_logits_ith(self._handle, index)
        if not pointer:
            raise ValueError(f"no logits were asked for at batch index {index}")
        address = ctypes.addressof(pointer.contents)
        row = self._rows.get(address)
        if row is None:  # a place where none was yet: the buffer has grown, or has moved
            row = np.frombuffer(self._row.from_address(address), np.float32)
            self._rows[address] = row
        return row

    def all_logits(self, rows: int) -> NDArray[np.float32]:
        """The last batch's output rows in its order, shape (rows, vocabulary); a view as above.

        Args:
            rows: How many tokens of that batch asked for logits.
        """
        pointer = native.library().llama_get_logits(self._handle)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.model.vocabulary_size))

    def keep_hidden(self, wanted: bool) -> None:
        """Whether the decodes that follow keep the hidden states too.

        While they do, every token of a batch must ask for logits.
        """
        native.library().llama_set_embeddings(self._handle, wanted)

    def all_hidden(self, rows: int) -> NDArray[np.float32]:
        """What the output matrix was multiplied with, shape (rows, hidden size); a view.

        Args:
            rows: Tokens of the last batch, decoded after `keep_hidden(True)`.
        """
        pointer = native.library().llama_get_embeddings(self._handle)
        if not pointer:
            raise ValueError("no hidden states were kept")
        return np.ctypeslib.as_array(pointer, shape=(rows, self.model.hidden_size))

    def pooled(self) -> NDArray[np.float32]:
        """The vector of sequence 0 after a decode of all its tokens, shape (hidden size,); a view.

        Only in a context that is `pooled`.
        """
        pointer = native.library().llama_get_embeddings_seq(self._handle, 0)
        if not pointer:
            raise ValueError("the context is not pooled")
        return np.ctypeslib.as_array(pointer, shape=(self.model.hidden_size,))

    def forget(self, start: int = 0, *, sequence: int = 0) -> bool:
        """Drop what the cache holds of `sequence` from position `start` on.

        Returns:
            False where the model's memory cannot be cut there (recurrent state, or a sliding
            window that has moved past it); then nothing was dropped.
        """
        lib = native.library()
        if start == 0:
            return bool(lib.llama_memory_seq_rm(self._memory, sequence, -1, -1))
        window = self.model.sliding_window
        oldest = int(lib.llama_memory_seq_pos_min(self._memory, sequence))
        if window and oldest > max(0, start - window):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, start, -1))

    @property
    def can_shift(self) -> bool:
        """Whether `shift` can do anything with this model."""
        lib = native.library()
        return not self.model.recurrent and bool(lib.llama_memory_can_shift(self._memory))

    def shift(self, start: int, count: int, *, sequence: int = 0) -> bool:
        """Drop `count` tokens of a sequence from position `start` on; those after them move up.

        They keep what they took from the dropped ones, so it is not as if these had never been.

        Returns:
            False where the model's positions cannot be changed; then nothing was dropped.
        """
        lib = native.library()
        if not self.can_shift:
            return False
        if not lib.llama_memory_seq_rm(self._memory, sequence, start, start + count):
            return False
        lib.llama_memory_seq_add(self._memory, sequence, start + count, -1, -count)
        return True

    @property
    def handle(self) -> Any:
        """The native context, for the other modules of this room."""
        return self._handle


def rows_of_logits(model: Model) -> int:
    """How many rows of logits one decode may give where memory is short: 1 to 512.

    A multiple of 16 where it is more: some kernels round differently for what is left over.
    """
    rows = max(1, min(512, _MOST_LOGIT_BYTES // (4 * model.vocabulary_size)))
    return rows if rows < _GROUP else rows // _GROUP * _GROUP


def require_numbers(model: Model, logits: NDArray[np.float32]) -> None:
    """Return if [rows, vocabulary] logits of `model` are finite.

    Raises:
        NativeFailure: they are not.
    """
    if not np.isfinite(logits.sum(axis=1)).all():  # one NaN or infinity makes the sum one
        raise NativeFailure(
            f"{model.path}: computes no valid probabilities (NaN); its weights are damaged",
            hint="Fetch, convert or quantize the model again.",
        )


def _never() -> bool:
    return False


def _create(
    model: Model, options: ContextOptions, evaluation_callback: Any
) -> tuple[Any, dict[str, int]]:
    """The native context, and how many bytes its cache and buffers took."""
    lib = native.library()
    params = lib.llama_context_default_params()
    # Rounded here already: llama.cpp limits the batch to what it was given before it rounds.
    params.n_ctx = -(-options.length // _CONTEXT_STEP) * _CONTEXT_STEP
    params.n_batch = options.batch
    params.n_ubatch = min(options.ubatch, options.batch)
    params.n_seq_max = options.sequences
    params.kv_unified = False
    params.n_outputs_max = options.outputs
    params.n_threads = options.threads
    params.n_threads_batch = options.prefill_threads or options.threads
    params.swa_full = False
    params.embeddings = options.pooled
    params.type_k = params.type_v = _type_id(options.kv_type)
    if options.flash_attention is not None:
        params.flash_attn_type = int(options.flash_attention)
    if evaluation_callback is not None:
        params.cb_eval = ctypes.cast(evaluation_callback, type(params.cb_eval))
    before = pages.anonymous() if options.as_it_fills else []
    with signals_deferred(), native.captured_log() as lines:
        handle = lib.llama_init_from_model(model.handle, params)
    if options.as_it_fills:
        pages.give_back_zeros(before)
    if not handle:
        raise NativeFailure(
            f"llama.cpp cannot make a context: {native.reason(lines, 'no reason given')}",
            hint="A shorter --context needs less memory; another --kv-type may suit the model.",
        )
    return handle, buffer_bytes(lines)


def _type_id(name: str) -> int:
    return next(type_.id for type_ in TENSOR_TYPES.values() if type_.name == name)
