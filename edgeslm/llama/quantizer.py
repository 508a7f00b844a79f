"""llama.cpp's file quantizer, run in a child process.

The native call cannot be interrupted, ends its process on a failed assertion, and reports
why it stopped only through its log. In a child, Ctrl-C works, an abort is an error with a
reason, and the log, which has a line for each tensor, drives a progress bar.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeslm import progress
from edgeslm.errors import (
    InvalidOption,
    NativeFailure,
    OutputFailure,
    Unsupported,
    UserError,
    writing,
)
from edgeslm.files import atomic_path
from edgeslm.gguf.reader import Header
from edgeslm.gguf.types import FILE_TYPES, TensorType, tensor_type
from edgeslm.gguf.validation import read_model
from edgeslm.llama import native
from edgeslm.llama.quantizing import FAILURE, Request

COPY = "COPY"
"""Not a type: every tensor stays as it is, only the container is written anew."""

_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_FILE_TYPE_IDS = {name: number for number, name in FILE_TYPES.items() if name != "NVFP4"}

FILE_TYPE_NAMES = (*_FILE_TYPE_IDS, *_ALIASES, COPY)
"""Every name llama-quantize takes. Files may also be NVFP4, but no encoder chooses it."""

_PROBED_TYPES = ("BF16", "F16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "F32")
"""File types that are one tensor type, in which rows of any multiple of 32 can be stored."""

_MAY_NEED_IMPORTANCE = re.compile(r"IQ[12]_.*|IQ3_XX?S|Q2_K_S")
_NEED_IMPORTANCE = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
"""Tensor types that llama.cpp writes only with importances, save for these tensors:"""
_HEADS = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "output.weight"})
_TENSOR_LINE = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)")
_PLANNED_TYPE = re.compile(r" -> .*\((\w+)\)\s*$")
_FALLBACK_LINE = re.compile(r"warning: .* -> falling back to")
_KEPT_LINES = 100
_PIECE_BYTES = 1 << 16
_BETWEEN_READS = 0.02
_CHILD = "edgeslm.llama.quantizing"


@dataclass(frozen=True)
class QuantizeOptions:
    """How llama.cpp quantizes a file."""

    file_type: str
    """One of FILE_TYPE_NAMES, in upper or lower case."""
    threads: int | None = None
    """None for one per core."""
    allow_requantize: bool = False
    """Accept a source whose tensors are quantized already."""
    overrides: tuple[tuple[str, TensorType], ...] = ()
    """Tensors, by full name, that get a type of their own. Without effect under a
    `file_type` that is a float type."""
    imatrix: Path | None = None
    """An importance matrix of this model: what its rounding is weighted with."""


def file_type_name(text: str) -> str:
    """The name llama.cpp gives a file type: "q4_k" is Q4_K_M.

    Raises:
        InvalidOption: there is no such type.
    """
    name = text.strip().upper()
    if name in FILE_TYPE_NAMES:
        return _ALIASES.get(name, name)
    close = difflib.get_close_matches(name, FILE_TYPE_NAMES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Try Q4_K_M, Q6_K or Q8_0."
    raise InvalidOption(f"not a quantization type: {text!r}", hint=hint)


@dataclass(frozen=True)
class Quantized:
    """What was written, as read back."""

    header: Header
    fallbacks: int
    """How many tensors got another type than asked for, since their rows are no multiple of
    its block."""
    seconds: float
    """Of llama.cpp's work: reading, encoding, writing."""


def quantize_file(source: Path, output: Path, options: QuantizeOptions) -> int:
    """Write `source` quantized to `output`, which appears only when it is complete.

    Returns:
        How many tensors got another type than asked for, since their rows are no multiple
        of its block.

    Raises:
        InvalidOption: an unknown type, or an output that is the source.
        InvalidGGUF: the source is no sound model file.
        Unsupported: the type needs an importance matrix for this model, or the one given is
            for another model.
        OutputFailure: the output cannot be written.
        NativeFailure: llama.cpp refused or crashed.
    """
    return quantize_model(read_model(source), output, options).fallbacks


def quantize_model(
    header: Header, output: Path, options: QuantizeOptions, *, child: Child | None = None
) -> Quantized:
    """Write the model of `header`, which was validated, quantized to `output`.

    Args:
        header: The source.
        output: Where the result appears once it is complete.
        options: How.
        child: A process from `waiting_child`; without one it is started when it is needed.

    Raises:
        EdgeslmError: see `quantize_file`.
    """
    name = file_type_name(options.file_type)
    refuse_same_file(header.path, output)
    if options.imatrix is not None or _MAY_NEED_IMPORTANCE.fullmatch(name):
        planned(header, options)  # refuses what llama.cpp would after hours
    with atomic_path(output) as temporary:
        job = _Job(header.path, output, temporary, name, options)
        fallbacks, seconds = _quantize(job, header, child)
        written = _verify(job)
    return Quantized(dataclasses.replace(written, path=output), fallbacks, seconds)


@dataclass(frozen=True)
class Plan:
    """What llama.cpp would make of a model."""

    types: Mapping[str, TensorType]
    """Of every tensor, in the order in which it would write them."""
    fallbacks: int
    """As in `Quantized`."""


def planned(header: Header, options: QuantizeOptions, *, child: Child | None = None) -> Plan:
    """Ask llama.cpp, which knows the model's shapes, what it would write.

    Args:
        header: The source, which was validated.
        options: How it is to be quantized.
        child: As for `quantize_model`.

    Raises:
        InvalidOption: an unknown type.
        Unsupported: the type needs an importance matrix for this model, or the one given is
            for another model.
        NativeFailure: llama.cpp refused or crashed.
    """
    name = file_type_name(options.file_type)
    known = _importances(header, options.imatrix)
    present = {tensor.name: tensor.type for tensor in header.tensors}
    types: dict[str, TensorType] = {}
    fallbacks = 0

    def watch(line: str) -> None:
        nonlocal fallbacks
        fallbacks += bool(_FALLBACK_LINE.match(line))
        if found := _TENSOR_LINE.match(line):
            other = _PLANNED_TYPE.search(line)
            types[found[1]] = tensor_type(other[1]) if other else present[found[1]]

    job = _Job(header.path, header.path, header.path, name, options)
    _run(job, watch, dry_run=True, child=child)
    if types.keys() != present.keys():
        raise NativeFailure(
            f"{header.path}: llama.cpp does not say what becomes of each tensor",
            hint="Please report it, with the model's name.",
        )
    changed = {name: kind for name, kind in types.items() if kind != present[name]}
    _refuse_without_importance(job, changed, known)
    return Plan(types, fallbacks)


def quantizable_tensors(source: Path) -> frozenset[str]:
    """Names of the tensors that llama.cpp's quantizer would change; it leaves norms and such.

    Raises:
        InvalidGGUF: the source is no sound model file.
        NativeFailure: llama.cpp refused or crashed.
    """
    present = {tensor.type.name for tensor in read_model(source).tensors}
    absent = next((name for name in _PROBED_TYPES if name not in present), None)
    if absent is None:
        raise Unsupported(
            f"{source}: its tensors have every type there is",
            hint="Choose a stock type with --type instead.",
        )
    changed: set[str] = set()

    def watch(line: str) -> None:
        if (tensor := _TENSOR_LINE.match(line)) and " -> " in line:
            changed.add(tensor[1])

    options = QuantizeOptions(absent, allow_requantize=True)
    _run(_Job(source, source, source, absent, options), watch, dry_run=True)
    return frozenset(changed)


@dataclass(frozen=True)
class _Job:
    """What a child is told; `output` is the name for messages, `temporary` what it writes."""

    source: Path
    output: Path
    temporary: Path
    file_type: str
    options: QuantizeOptions

    def request(self, *, dry_run: bool) -> Request:
        return Request(
            source=str(self.source),
            output=str(self.temporary),
            file_type=_FILE_TYPE_IDS.get(self.file_type, 0),
            only_copy=self.file_type == COPY,
            dry_run=dry_run,
            threads=self.options.threads or 0,
            allow_requantize=self.options.allow_requantize,
            overrides=[(name, kind.id) for name, kind in self.options.overrides],
            imatrix=None if self.options.imatrix is None else str(self.options.imatrix),
        )


def refuse_same_file(source: Path, output: Path) -> None:
    """Return if `output` is another file than `source`.

    Raises:
        InvalidOption: it is the same.
    """
    with writing(output):
        same = output.exists() and output.samefile(source)
    if same:
        raise InvalidOption(
            f"{output}: the output is the source itself", hint="Give the output another name."
        )


def _importances(header: Header, imatrix: Path | None) -> frozenset[str]:
    """The tensors that a matrix has importances for, once it is seen to be for this model."""
    if imatrix is None:
        return frozenset()
    from edgeslm.llama import importance

    return importance.known_tensors(header, imatrix)


def _refuse_without_importance(
    job: _Job, changed: Mapping[str, TensorType], known: frozenset[str]
) -> None:
    needy = _NEED_IMPORTANCE | ({"Q2_K"} if job.file_type == "Q2_K_S" else frozenset())
    missing = [name for name, kind in changed.items() if kind.name in needy]
    missing = [name for name in missing if name not in known | _HEADS]
    if not missing:
        return
    if job.options.imatrix is not None:
        raise Unsupported(
            f"{job.options.imatrix}: has no importances for {missing[0]}, "
            f"which {job.file_type} needs",
            hint="Make an importance matrix with this very model.",
        )
    raise Unsupported(
        f"{job.file_type} needs an importance matrix for {job.source}",
        hint="Give one with --imatrix, or choose Q2_K, IQ3_S or a larger type.",
    )


def _quantize(job: _Job, header: Header, child: Child | None) -> tuple[int, float]:
    elements = {tensor.name: tensor.elements for tensor in header.tensors}
    fallbacks = 0
    with progress.bar(f"quantizing to {job.file_type}", sum(elements.values())) as advance:

        def watch(line: str) -> None:
            nonlocal fallbacks
            fallbacks += bool(_FALLBACK_LINE.match(line))
            if tensor := _TENSOR_LINE.match(line):
                advance(elements.get(tensor[1], 0))

        seconds = _run(job, watch, dry_run=False, child=child)
    return fallbacks, seconds


def _verify(job: _Job) -> Header:
    """Read back what was written: sound, and every override heeded."""
    try:
        written = read_model(job.temporary)
    except UserError as error:
        raise NativeFailure(
            f"{job.source}: llama.cpp wrote an unsound file: {error.message}",
            hint="Please report it, with the model's name.",
        ) from error
    types = {tensor.name: tensor.type for tensor in written.tensors}
    for name, kind in job.options.overrides:
        if types.get(name) != kind:
            found = types[name].name if name in types else "nothing"
            raise NativeFailure(
                f"{job.source}: llama.cpp wrote {name} as {found}, not as {kind.name}",
                hint="Choose a stock type with --type instead.",
            )
    return written


def _run(
    job: _Job, watch: Callable[[str], None], *, dry_run: bool, child: Child | None = None
) -> float:
    """Run one native call in a child, giving `watch` each line of its log; the seconds it took."""
    if child is None:
        with waiting_child() as started:
            return _run(job, watch, dry_run=dry_run, child=started)
    last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
    for line in child.run(job.request(dry_run=dry_run)):
        last_lines.append(line.strip())
        if os.environ.get("EDGESLM_NATIVE_LOG"):
            sys.stderr.write(line)
        watch(line)
    status, answer = child.end()
    if status != 0 or not answer:
        raise NativeFailure(
            f"{job.source}: llama.cpp crashed while quantizing ({_last_words(last_lines, status)})",
            hint="Try another type; if memory ran out, use fewer --threads.",
        )
    told = json.loads(answer)
    if told["status"] != 0:
        raise _failure(job, last_lines)
    return float(told["seconds"])


def _failure(job: _Job, lines: deque[str]) -> OutputFailure | NativeFailure:
    reasons = (line.partition(FAILURE)[2] for line in lines if FAILURE in line)
    problem = next(reasons, _last_words(lines, 0))
    if "iostream" in problem or "basic_ios" in problem or "basic_filebuf" in problem:
        return OutputFailure(
            f"cannot write {job.output}: the disk took only part of it",
            hint="Free some space or choose another disk; nothing half-written was left behind.",
        )
    return NativeFailure(
        f"{job.source}: llama.cpp cannot quantize it to {job.file_type}: {problem}",
        hint="Look inside with edgeslm inspect, or try another type.",
    )


def _last_words(lines: deque[str], status: int) -> str:
    for line in lines:
        if "GGML_ASSERT" in line or "what():" in line or "fatal error" in line:
            return line
    if status < 0:
        return signal.Signals(-status).name
    return next((line for line in reversed(lines) if line), f"exit code {status}")


class Child:
    """A process that does one native call; it starts up while its request is prepared."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            native.child_command(_CHILD),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=native.child_environment(),
        )

    def run(self, request: Request) -> Iterator[str]:
        """Hand over the request, once; gives the lines of the log."""
        stdin, stderr = self._process.stdin, self._process.stderr
        assert stdin is not None and stderr is not None  # noqa: S101  for mypy
        with suppress(BrokenPipeError):  # it died: `end` says how
            stdin.write(json.dumps(asdict(request)).encode())
            stdin.close()
        rest = b""
        while piece := os.read(stderr.fileno(), _PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") + "\n" for line in lines)
            time.sleep(_BETWEEN_READS)  # to wake up for every piece of a line would cost it a core
        if rest:
            yield rest.decode("utf-8", "replace")

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it answered."""
        assert self._process.stdout is not None  # noqa: S101  for mypy
        answer = self._process.stdout.read().decode()
        return self._process.wait(), answer

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


@contextmanager
def waiting_child() -> Iterator[Child]:
    """A child that can be given to one call of `quantize_model`; killed if the block is left."""
    child = Child()
    try:
        yield child
    finally:
        child.close()
