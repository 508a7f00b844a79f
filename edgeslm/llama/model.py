"""An open model: its vocabulary, its metadata, text to tokens and back.

A `Model` owns a native handle; use it as a context manager. Files are checked by
`edgeslm.gguf` and, the first time they are seen, loaded once in a child process, since
llama.cpp ends the process on some malformed files.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from edgeslm.errors import NativeFailure
from edgeslm.files import identity
from edgeslm.gguf.arrays import Array
from edgeslm.gguf.reader import Header, read_header
from edgeslm.gguf.validation import read_model
from edgeslm.llama import guard, native
from edgeslm.llama.buffers import buffer_bytes
from edgeslm.llama.closing import Closing
from edgeslm.signals import signals_deferred

_DESCRIBED_BYTES = 128
_ATTRIBUTE_CONTROL = 1 << 3
_ATTRIBUTE_USER_DEFINED = 1 << 4
_ATTRIBUTES_SPECIAL = _ATTRIBUTE_CONTROL | _ATTRIBUTE_USER_DEFINED
_KNOWN_TOKENS = 1024
_NO_TOKEN = -1
_ANCHOR = "\n"
_COMPOSING = frozenset({"qwen2", "qwen35"})
"""Pre-tokenizers whose tokenizer.json normalises to NFC first."""


@dataclass(frozen=True)
class ModelOptions:
    """How the weights are held.

    Attributes:
        mmap: Map the file instead of reading it; pages are then shared and reclaimable.
        repack: Let llama.cpp keep a second, interleaved copy of some weights, which speeds
            up prefill on most processors and costs that much memory.
        trusted: Skip the first load in a child process.
    """

    mmap: bool = True
    repack: bool = True
    trusted: bool = False


class Model(Closing):
    """A loaded model.

    Args:
        path: A GGUF file.
        options: How the weights are held.
        header: Its header, where `read_model` has read it already.

    Raises:
        NotFound: there is no such file.
        InvalidGGUF, Unsupported: the file is malformed, or not a model for this build.
        NativeFailure: llama.cpp refused it; the message has its reason.
    """

    def __init__(
        self, path: Path, options: ModelOptions | None = None, *, header: Header | None = None
    ) -> None:
        options = options or ModelOptions()
        self.path = path
        self.identity = identity(path)
        """Of the file that was loaded; another one may lie there by now."""
        self._keep(header or read_model(path))
        if not options.trusted:
            guard.ensure_loadable(path)
        self._handle: Any
        self._handle, self.buffer_bytes = _load(path, options)
        lib = native.library()
        self._vocabulary: Any = lib.llama_model_get_vocab(self._handle)
        known = lru_cache(_KNOWN_TOKENS)  # most tokens of a text are a few hundred that come again
        self._spelled = known(partial(_spelled, self._vocabulary))
        self._ends = known(partial(lib.llama_vocab_is_eog, self._vocabulary))

    def _keep(self, header: Header) -> None:
        """What is needed of a header later; of long arrays, such as the vocabulary, digests."""
        arrays = {key: each for key, each in header.metadata.items() if isinstance(each, Array)}
        rest = {key: each for key, each in header.metadata.items() if key not in arrays}
        self.structure = dataclasses.replace(header, metadata=rest)
        """What the file says, without its long arrays; they would take megabytes to keep."""
        self._digests = {key: array.digest() for key, array in arrays.items()}

    def close(self) -> None:
        """Free the native model; contexts made from it must be closed before."""
        if self._handle is not None:
            native.library().llama_model_free(self._handle)
            self._handle = None

    @property
    def header(self) -> Header:
        """All that the file says, read anew each time; `structure` is at hand."""
        return read_header(self.path)

    def says_the_same(self, other: Model, key: str) -> bool:
        """Whether the files of both say the same of `key`, in the same type."""
        return bool(self._said(key) == other._said(key))

    def _said(self, key: str) -> Any:
        return self._digests.get(key, self.structure.get(key))

    def hyper(self, name: str) -> Any:
        """One hyperparameter of the file, such as "pooling_type"; None where it has none."""
        return self.structure.hyper(name)

    @property
    def handle(self) -> Any:
        """The native model, for the other modules of this room."""
        if self._handle is None:
            raise ValueError("the model is closed")
        return self._handle

    @property
    def vocabulary_handle(self) -> Any:
        """The native vocabulary, for the other modules of this room."""
        return self._vocabulary

    @cached_property
    def described(self) -> str:
        """What llama.cpp calls the model, family, size and type: "llama 135M Q4_1"."""
        text = ctypes.create_string_buffer(_DESCRIBED_BYTES)
        native.library().llama_model_desc(self.handle, text, _DESCRIBED_BYTES)
        return text.value.decode("utf-8", "replace")

    @cached_property
    def vocabulary_size(self) -> int:
        """How many tokens there are; logits have this length."""
        return int(native.library().llama_vocab_n_tokens(self._vocabulary))

    @cached_property
    def hidden_size(self) -> int:
        """Numbers in the hidden state from which a token's logits are computed."""
        return int(native.library().llama_model_n_embd_out(self.handle))

    @cached_property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return int(native.library().llama_model_n_params(self.handle))

    @cached_property
    def trained_context_length(self) -> int:
        """The longest context the model was trained for, in tokens."""
        return int(native.library().llama_model_n_ctx_train(self.handle))

    @cached_property
    def sliding_window(self) -> int:
        """Width of the sliding attention window in tokens; 0 where every layer sees all."""
        return int(native.library().llama_model_n_swa(self.handle))

    @property
    def several_positions(self) -> bool:
        """Whether a token has several (M-RoPE), as in models that see pictures."""
        lib = native.library()
        kinds = (lib.LLAMA_ROPE_TYPE_MROPE, lib.LLAMA_ROPE_TYPE_IMROPE)
        return lib.llama_model_rope_type(self.handle) in kinds

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep one state instead of keys and values per position."""
        lib = native.library()
        return bool(lib.llama_model_is_recurrent(self._handle)) or bool(
            lib.llama_model_is_hybrid(self._handle)
        )

    @cached_property
    def can_generate(self) -> bool:
        """Whether the model predicts a next token; embedding models don't."""
        return bool(native.library().llama_model_has_decoder(self.handle)) and not self.hyper(
            "pooling_type"
        )

    @cached_property
    def chat_template(self) -> str | None:
        """The model's own Jinja chat template."""
        template = self.structure.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template.strip() else None

    @cached_property
    def bos(self) -> int | None:
        """The token that begins a text, None where there is none."""
        return _optional(native.library().llama_vocab_bos(self._vocabulary))

    @cached_property
    def eos(self) -> int | None:
        """The token that ends a text, None where there is none."""
        return _optional(native.library().llama_vocab_eos(self._vocabulary))

    @cached_property
    def adds_bos(self) -> bool:
        """Whether every text of this model starts with `bos`."""
        return bool(native.library().llama_vocab_get_add_bos(self._vocabulary))

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Text and id of each token that steers the model instead of being text."""
        return self._special[0]

    @cached_property
    def user_defined_tokens(self) -> dict[str, int]:
        """Text and id of each token that llama.cpp finds in any text, plain text included."""
        return self._special[1]

    @cached_property
    def _special(self) -> tuple[dict[str, int], dict[str, int]]:
        """Control tokens and user-defined ones, in one pass: large vocabularies take their time."""
        attributes_of = native.library().llama_vocab_get_attr
        special = [
            (token, attributes)
            for token in range(self.vocabulary_size)
            if (attributes := attributes_of(self._vocabulary, token)) & _ATTRIBUTES_SPECIAL
        ]

        def of_kind(attribute: int) -> dict[str, int]:
            found = (token for token, attributes in special if attributes & attribute)
            return {text: token for token in found if (text := self.token_text(token))}

        return of_kind(_ATTRIBUTE_CONTROL), of_kind(_ATTRIBUTE_USER_DEFINED)

    @cached_property
    def _composes(self) -> bool:
        """Whether the tokenizer was trained on composed characters; llama.cpp leaves that out."""
        return self.structure.get("tokenizer.ggml.pre") in _COMPOSING

    def token_text(self, token: int) -> str:
        """The vocabulary entry itself, as stored in the file."""
        text = native.library().llama_vocab_get_text(self._vocabulary, token)
        return str(text.decode("utf-8", "replace"))

    def ends_generation(self, token: int) -> bool:
        """Whether `token` ends an answer (end of text, of turn, ...)."""
        return bool(self._ends(token))

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        Args:
            text: Any text; lone surrogates become question marks.
            add_special: Add the tokens the model wants around a text (BOS, EOS).
            parse_special: Read the spelling of control tokens as those tokens. Never use it
                on text that comes from somebody else.
        """
        tokens = self._tokenize(text, add_special, parse_special)
        if parse_special or self._splits_words or self._control_ids.isdisjoint(tokens):
            return tokens
        plain = self._tokenize(text, False, False)
        if self._control_ids.isdisjoint(plain):
            return tokens
        apart = self._apart(text, plain)
        if not add_special or tokens == plain:
            return apart
        # What belongs around a text stands around any other text too.
        one = self._tokenize(_ANCHOR, False, False)
        both = self._tokenize(_ANCHOR, True, False)
        places = (n for n in range(len(both)) if both[n : n + len(one)] == one)
        at = next(places, 0) if one else 0
        return [*both[:at], *apart, *both[at + len(one) :]]

    @cached_property
    def _splits_words(self) -> bool:
        """Whether text becomes tokens word by word, as in BERT.

        Pieces cannot add up to control tokens then, and one of these stands for unknown words.
        """
        return bool(self.structure.get("tokenizer.ggml.model") == "bert")

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self.control_tokens.values())

    def _apart(self, text: str, tokens: Sequence[int]) -> list[int]:
        """Token ids of a text whose pieces add up to control tokens: it is cut inside these.

        SentencePiece puts pieces together until nothing longer is in the vocabulary, and
        llama.cpp then takes control tokens for pieces.
        """
        for token in self._control_ids.intersection(tokens):
            spelling = self.token_text(token)
            if len(spelling) > 1 and spelling in text:
                return self._cut(text, spelling)
        return [token for token in tokens if token not in self._control_ids]

    def _cut(self, text: str, spelling: str) -> list[int]:
        """Token ids of a text, cut behind the first character of every `spelling` in it."""
        head, tail = spelling[0], spelling[1:]
        anchor = self.tokenize(_ANCHOR)
        first, *others = text.split(spelling)
        tokens = self.tokenize(first + head)
        for number, part in enumerate(others, 1):
            part = tail + part + (head if number < len(others) else "")
            # Behind the anchor no space is put before it.
            behind = self.tokenize(_ANCHOR + part)
            joined = behind[: len(anchor)] == anchor
            tokens += behind[len(anchor) :] if joined else self.tokenize(part)
        return tokens

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        lib = native.library()
        if self._composes:
            text = unicodedata.normalize("NFC", text)
        data = text.encode("utf-8", "replace")
        capacity = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * capacity)()
            count = lib.llama_tokenize(
                self._vocabulary, data, len(data), buffer, capacity, add_special, parse_special
            )
            if count >= 0:
                return list(buffer[:count])
            capacity = -count

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes `token` stands for; a character may span several tokens.

        Args:
            token: An id below `vocabulary_size`.
            special: Spell control tokens out instead of giving nothing for them.
        """
        return self._spelled(token, special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, without control tokens."""
        return b"".join(self.token_bytes(token) for token in tokens).decode("utf-8", "replace")


def _spelled(vocabulary: Any, token: int, special: bool) -> bytes:
    lib = native.library()
    capacity = 64
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        count = lib.llama_token_to_piece(vocabulary, token, buffer, capacity, 0, special)
        if count >= 0:
            return buffer.raw[:count]
        capacity = -count


def _optional(token: int) -> int | None:
    return None if token == _NO_TOKEN else int(token)


def _load(path: Path, options: ModelOptions) -> tuple[Any, dict[str, int]]:
    """The native model, and how many bytes its weights took."""
    lib = native.library()
    params = lib.llama_model_default_params()
    if not options.mmap:
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = options.repack
    with signals_deferred(), native.captured_log() as lines:
        handle = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not handle:
        raise NativeFailure(
            f"{path}: llama.cpp cannot load it: {native.reason(lines, 'no reason given')}",
            hint="See what is inside with: edgeslm inspect FILE",
        )
    return handle, buffer_bytes(lines)
