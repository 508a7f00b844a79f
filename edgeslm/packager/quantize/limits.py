"""From what the user wants, and the target it is for, to limits for the allocation.

    --bits  --size  --ram              bytes of all tensors:    the least of the three
    --min-tps  --max-joules-per-token  seconds for each token:  the lesser of the two

Bytes and seconds are those of `edgeslm.estimate`, by the same functions: a file made for 12
tokens per second is predicted at 12 or more, and one made for 300 MB of RAM at 300 or less.
What cannot be had is refused with the constraint that binds and the nearest that can be had,
before anything long begins. Pure: no arrays, no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeslm.errors import InvalidOption
from edgeslm.estimate.energy import seconds_per_token
from edgeslm.estimate.memory import weights_budget
from edgeslm.estimate.prediction import usual_kv_type
from edgeslm.estimate.speed import standing_seconds, weight_seconds
from edgeslm.estimate.work import shares_read
from edgeslm.gguf.reader import Header, TensorInfo
from edgeslm.gguf.types import DEFAULT_ALIGNMENT, kv_tensor_type, padded
from edgeslm.packager.quantize.allocation import Allocation, Infeasible, allocate
from edgeslm.packager.quantize.candidates import Candidate, Limits, Options
from edgeslm.packager.quantize.wishes import Wishes
from edgeslm.targets.target import Target
from edgeslm.units import format_bytes, format_seconds, significant

_CONTEXT_LENGTH = 2048
_KV_TYPE = "F16"
"""Where neither the user nor a target says."""
_UBATCH = 512
_ADDED_KEYS = ("general.quantization_version", "general.file_type")
_NUMBER_ENTRY_BYTES = 8 + 4 + 4
"""A metadata entry beside its key: length of the key, type, a 32-bit value."""
_ROUNDING = 1e-8
"""Seconds are added in another order when they are predicted; this much is kept free."""


@dataclass(frozen=True)
class Demand:
    """One wish as a limit on everything: `most` bytes of all tensors, or seconds of a token.

    `ask` turns a limit that can be met back into the option that asks for it.
    """

    words: str
    most: float
    ask: Callable[[float], str]
    detail: str = ""


@dataclass(frozen=True)
class Demands:
    """All wishes for one model, as limits; see `demands_for`."""

    header: Header
    target: Target | None
    context_length: int
    kv_type: str
    whole_file: bool
    """Whether tensors count with the padding that a file puts between them."""
    bytes_demands: tuple[Demand, ...]
    seconds_demands: tuple[Demand, ...]

    @property
    def by_bytes(self) -> Demand | None:
        """The strictest limit on bytes."""
        return min(self.bytes_demands, key=lambda demand: demand.most, default=None)

    @property
    def by_seconds(self) -> Demand | None:
        """The strictest limit on seconds."""
        return min(self.seconds_demands, key=lambda demand: demand.most, default=None)

    @property
    def words(self) -> str:
        """What was asked for: "90.0 MB and 12 tokens/s on rpi4-4gb"."""
        return " and ".join(item.words for item in (self.by_bytes, self.by_seconds) if item)

    def priced(self, options: Sequence[Options]) -> list[Options]:
        """The options with bytes as they are counted here, and seconds on the target.

        Raises:
            InvalidOption: the target's file does not say how fast any type of a tensor is read.
        """
        shares = shares_read(self.header)
        return [self._priced(item, shares[item.tensor]) for item in options]

    def limits(self, options: Sequence[Options]) -> Limits:
        """What is left for the tensors of `options` once all others are counted."""
        count, seconds = self._fixed(options)
        return Limits(
            bytes=None if self.by_bytes is None else math.floor(self.by_bytes.most) - count,
            seconds=None if self.by_seconds is None else self.by_seconds.most - seconds,
        )

    def allocate(self, options: Sequence[Options]) -> Allocation:
        """The best mix that meets all demands.

        Args:
            options: Scored candidates; their bytes and seconds are computed here.

        Raises:
            InvalidOption: there is none; the message says what binds, the hint what can be had.
        """
        priced = self.priced(options)
        limits = self.limits(options)
        try:
            return allocate(priced, limits)
        except Infeasible as error:
            raise self._refusal(priced, limits) from error

    def refuse_impossible(self, options: Sequence[Options]) -> None:
        """Complain about demands that no mix meets, whatever the candidates score.

        Raises:
            InvalidOption: as `allocate` does.
        """
        self.allocate([_scored(item, lambda _: 0.0) for item in options])

    def warnings(self, options: Sequence[Options], allocation: Allocation) -> tuple[str, ...]:
        """That the result will not fit the target's free memory."""
        free = self.target.memory.free_bytes if self.target else None
        if free is None:
            return ()
        room = _weights_budget(self.header, free, self.context_length, self.kv_type)
        taken = allocation.bytes + self._fixed(options)[0]
        if self.target is None or taken <= room:
            return ()
        return (
            f"with {self.context_length} tokens of context the model needs "
            f"{format_bytes(free + taken - room)} of memory, {self.target.id} has "
            f"{format_bytes(free)} free",
        )

    def _counted(self, count: int) -> int:
        return padded(count, DEFAULT_ALIGNMENT) if self.whole_file else count

    def _priced(self, item: Options, share: float) -> Options:
        """One tensor's options, of which each token reads a share."""
        entries, lacking = [], ""
        for entry in item.candidates:
            seconds: float | None = 0.0
            if self.by_seconds is not None and self.target is not None and share:
                count = round(entry.bytes * share)
                cost = weight_seconds(self.target, entry.type.name, count)
                seconds, lacking = cost.seconds, cost.source
            if seconds is not None:
                taken = self._counted(entry.bytes)
                entries.append(dataclasses.replace(entry, bytes=taken, seconds=seconds))
        if not entries:
            raise _unknown_speed(lacking)
        return Options(item.tensor, tuple(entries))

    def _fixed(self, options: Sequence[Options]) -> tuple[int, float]:
        """Bytes and seconds of what is not up for choice, the token's standing cost included."""
        chosen = {item.tensor for item in options}
        fixed = [tensor for tensor in self.header.tensors if tensor.name not in chosen]
        count = sum(self._counted(tensor.bytes) for tensor in fixed)
        return count, self._fixed_seconds(fixed)

    def _fixed_seconds(self, fixed: Sequence[TensorInfo]) -> float:
        if self.target is None or self.by_seconds is None:
            return 0.0
        shares = shares_read(self.header)
        costs = [
            weight_seconds(self.target, tensor.type.name, round(tensor.bytes * share))
            for tensor in fixed
            if (share := shares[tensor.name])
        ]
        costs.append(
            standing_seconds(
                self.header,
                self.target,
                context_length=self.context_length,
                kv_type=self.kv_type,
            )
        )
        total = 0.0
        for cost in costs:
            if cost.seconds is None:
                raise _unknown_speed(cost.source)
            total += cost.seconds
        return total

    def _refusal(self, options: Sequence[Options], limits: Limits) -> InvalidOption:
        """Which demands cannot be met, or which two exclude each other."""
        count, seconds = self._fixed(options)
        smallest, fastest = _least(options, "bytes"), _least(options, "seconds")
        small = limits.bytes is not None and smallest.bytes > limits.bytes
        slow = limits.seconds is not None and fastest.seconds > limits.seconds
        by_speed = [_scored(item, lambda entry: entry.seconds) for item in options]
        if small or slow:
            room = None if limits.bytes is None else max(limits.bytes, smallest.bytes)
            quickest = fastest if room is None else allocate(by_speed, Limits(bytes=room))
            return self._out_of_reach(
                count + smallest.bytes,
                seconds + quickest.seconds,
                self._bytes_read(options, quickest),
            )
        assert self.by_bytes is not None  # noqa: S101  one limit alone was met above
        assert self.by_seconds is not None  # noqa: S101
        by_size = [_scored(item, lambda entry: float(entry.bytes)) for item in options]
        least = allocate(by_speed, Limits(bytes=limits.bytes)).seconds + seconds
        fewest = allocate(by_size, Limits(seconds=limits.seconds)).bytes + count
        return InvalidOption(
            f"{self.by_bytes.words} and {self.by_seconds.words} exclude each other for "
            f"{self.header.path}: the fastest mix of that size takes {format_seconds(least)} per "
            f"token ({significant(1 / least)} tokens/s)",
            hint=f"Ask for {self.by_seconds.ask(least)}, or for {self.by_bytes.ask(fewest)}.",
        )

    def _bytes_read(self, options: Sequence[Options], mix: Allocation) -> int:
        """What a token reads of the tensors that are up for choice."""
        shares = shares_read(self.header)
        chosen = zip(options, mix.chosen, strict=True)
        return sum(round(entry.bytes * shares[item.tensor]) for item, entry in chosen)

    def _out_of_reach(
        self, least_bytes: int, least_seconds: float, read_bytes: int
    ) -> InvalidOption:
        """Every demand that no mix meets, and the nearest that one mix meets together.

        Args:
            least_bytes: Of all tensors, in the smallest mix.
            least_seconds: Of a token, in the fastest mix of those that come nearest to the demands
                on bytes.
            read_bytes: What a token reads in that mix.
        """
        causes, asks = [], []
        for demand in self.bytes_demands:
            if demand.most < least_bytes:
                ask = demand.ask(least_bytes)
                causes.append(
                    f"{demand.words}{demand.detail} is too small for {self.header.path}: its "
                    f"tensors' types and widths allow no less than {ask.removesuffix(' or more')}"
                )
                asks.append(ask)
        for demand in self.seconds_demands:
            if demand.most < least_seconds:
                causes.append(
                    f"{demand.words}{demand.detail} leaves {format_seconds(demand.most)} per "
                    f"token; the fastest mix of {self.header.path} reads "
                    f"{format_bytes(read_bytes)} in {format_seconds(least_seconds)}: "
                    f"{significant(1 / least_seconds)} tokens/s"
                )
                asks.append(demand.ask(least_seconds))
        shorter = ", a shorter --context" if any("token;" in cause for cause in causes) else ""
        hint = f"Ask for {' and '.join(asks)}{shorter}, or take a smaller model."
        return InvalidOption("; ".join(causes), hint=hint)


def demands_for(header: Header, wishes: Wishes, target: Target | None = None) -> Demands:
    """The wishes for the model of `header` as limits.

    Args:
        header: The model before quantization.
        wishes: At least one of them a limit.
        target: The board; needed for speed and energy.

    Raises:
        InvalidOption: nothing is limited, a number is out of range, a limit that needs a target
            has none or the target lacks the figure, or the memory is too small for any weights.
        InvalidGGUF: the header lacks a hyperparameter.
    """
    _refuse_nonsense(wishes, target)
    context_length = wishes.context_length or (
        target.defaults.context_length if target else _CONTEXT_LENGTH
    )
    kv_type = wishes.kv_type or (usual_kv_type(header, target) if target else _KV_TYPE)
    kv_tensor_type(kv_type)
    return Demands(
        header=header,
        target=target,
        context_length=context_length,
        kv_type=kv_type,
        whole_file=wishes.size_bytes is not None,
        bytes_demands=tuple(_byte_demands(header, wishes, context_length, kv_type)),
        seconds_demands=tuple(_second_demands(wishes, target)),
    )


def _refuse_nonsense(wishes: Wishes, target: Target | None) -> None:
    numbers = {
        "--bits": wishes.bits,
        "--size": wishes.size_bytes,
        "--ram": wishes.ram_bytes,
        "--min-tps": wishes.min_tokens_per_second,
        "--max-joules-per-token": wishes.max_joules_per_token,
    }
    given = {option: value for option, value in numbers.items() if value is not None}
    if not given:
        raise InvalidOption(
            "nothing says how small or how fast the model shall be",
            hint=f"Give one or more of {', '.join(numbers)}.",
        )
    for option, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise InvalidOption(f"{option} {value:g}", hint="Give a positive number.")
    if wishes.context_length is not None and not 1 <= wishes.context_length < 2**31:
        raise InvalidOption(f"a context of {wishes.context_length} tokens", hint="Try 2048.")
    for option in ("--min-tps", "--max-joules-per-token"):
        if option in given and target is None:
            raise InvalidOption(
                f"{option} needs to know the board", hint="Name it: --target rpi4-4gb"
            )


def _byte_demands(
    header: Header, wishes: Wishes, context_length: int, kv_type: str
) -> list[Demand]:
    demands = []
    if wishes.bits is not None:
        elements = sum(tensor.elements for tensor in header.tensors)
        demands.append(
            Demand(
                f"{wishes.bits:g} bits per weight",
                math.floor(wishes.bits * elements / 8),
                lambda count: f"--bits {_rounded_up(count * 8 / elements, 4)} or more",
            )
        )
    if wishes.size_bytes is not None:
        beside = header_bytes(header)
        demands.append(
            Demand(
                format_bytes(wishes.size_bytes),
                wishes.size_bytes - beside,
                lambda count: f"--size {_size(count + beside)} or more",
            )
        )
    if wishes.ram_bytes is not None:
        room = _weights_budget(header, wishes.ram_bytes, context_length, kv_type)
        rest = wishes.ram_bytes - room
        demands.append(
            Demand(
                f"{format_bytes(wishes.ram_bytes)} of RAM",
                room,
                lambda count: f"--ram {_size(count + rest)} or more",
                f" ({format_bytes(rest)} of it go to the program and {context_length} tokens of "
                f"context in {kv_type})",
            )
        )
    return demands


def _second_demands(wishes: Wishes, target: Target | None) -> list[Demand]:
    demands: list[Demand] = []
    if target is None:
        return demands
    if (speed := wishes.min_tokens_per_second) is not None:
        demands.append(
            Demand(
                f"{speed:g} tokens/s on {target.id}",
                (1 - _ROUNDING) / speed,
                lambda seconds: f"--min-tps {_rounded_down((1 - _ROUNDING) / seconds, 3)} or less",
            )
        )
    if (joules := wishes.max_joules_per_token) is not None:
        seconds = seconds_per_token(target, joules)
        watts = target.power.load_watts.value
        if seconds is None or watts is None:
            raise InvalidOption(
                f"--max-joules-per-token: the file of {target.id} has no power.load_watts",
                hint="Add what the board draws under load, or ask for --min-tps instead.",
            )
        demands.append(
            Demand(
                f"{joules:g} J per token on {target.id}",
                seconds * (1 - _ROUNDING),
                lambda least: (
                    f"--max-joules-per-token {_rounded_up(watts * least * (1 + _ROUNDING), 3)} "
                    "or more"
                ),
                f" (it draws {watts:g} W)",
            )
        )
    return demands


def header_bytes(header: Header) -> int:
    """Bytes of the quantized file before its tensors: the source's, and the keys it gains."""
    added = [key for key in _ADDED_KEYS if key not in header.metadata]
    entries = sum(_NUMBER_ENTRY_BYTES + len(key) for key in added)
    return padded(header.data_offset + entries, DEFAULT_ALIGNMENT)


def _weights_budget(header: Header, ram_bytes: int, context_length: int, kv_type: str) -> int:
    """What a memory budget leaves for the tensors of the file to be written."""
    written = dataclasses.replace(header, data_offset=header_bytes(header))
    return weights_budget(
        written, ram_bytes, context_length=context_length, kv_type=kv_type, ubatch=_UBATCH
    )


def _scored(item: Options, score: Callable[[Candidate], float]) -> Options:
    return Options(
        item.tensor,
        tuple(dataclasses.replace(entry, score=score(entry)) for entry in item.candidates),
    )


def _least(options: Sequence[Options], name: str) -> Allocation:
    """The mix with the least bytes or seconds; of equals the one that has less of the other."""
    other = "bytes" if name == "seconds" else "seconds"
    return Allocation(
        tuple(
            min(item.candidates, key=lambda entry: (getattr(entry, name), getattr(entry, other)))
            for item in options
        )
    )


def _unknown_speed(source: str) -> InvalidOption:
    return InvalidOption(
        f"how fast the model would be is {source}",
        hint="Choose another --target, or measure this machine: edgeslm targets calibrate",
    )


def _size(count: float) -> str:
    """Bytes as an option takes them, four digits, never less: 61.34M."""
    for exponent, suffix in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**exponent:
            return f"{_rounded_up(count / 10**exponent, 4)}{suffix}"
    return str(math.ceil(count))


def _rounded_up(value: float, digits: int) -> str:
    decimals = _decimals(value, digits)
    return f"{math.ceil(value * 10**decimals) / 10**decimals:.{max(decimals, 0)}f}"


def _rounded_down(value: float, digits: int) -> str:
    decimals = _decimals(value, digits)
    return f"{math.floor(value * 10**decimals) / 10**decimals:.{max(decimals, 0)}f}"


def _decimals(value: float, digits: int) -> int:
    return max(digits - 1 - math.floor(math.log10(value)), 0)
