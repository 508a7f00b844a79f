"""A board as data: what it has, and every number with where it comes from.

A `Target` is read from a TOML file (see `loading`); nothing here knows about files. A figure
nobody has published or measured is `UNKNOWN`, and whoever computes with it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.records import Figure


@dataclass(frozen=True)
class CoreCluster:
    """Cores of one kind: `features` as Linux names them, `march` as the compiler takes it."""

    name: str
    count: Figure
    megahertz: Figure
    features: tuple[str, ...]
    march: str | None


@dataclass(frozen=True)
class Memory:
    """RAM, and how fast it can be read.

    `reserved_bytes` is what firmware, kernel and an idle operating system keep of the total.
    `decode_gigabytes_per_second` is what llama.cpp reaches while it generates, with a tensor
    type that has no kernel figure of its own; `nominal` is what the memory chips could do.
    """

    total_bytes: Figure
    reserved_bytes: Figure
    nominal_gigabytes_per_second: Figure
    decode_gigabytes_per_second: Figure

    @property
    def free_bytes(self) -> int | None:
        """What is left for a model, or None where either figure is unknown."""
        if self.total_bytes.value is None or self.reserved_bytes.value is None:
            return None
        return int(self.total_bytes.value - self.reserved_bytes.value)


@dataclass(frozen=True)
class Power:
    """Watts of the whole board, idle and while a model runs on all its cores."""

    idle_watts: Figure
    load_watts: Figure


@dataclass(frozen=True)
class Kernel:
    """How fast llama.cpp works with one tensor type, at the target's default threads."""

    decode_gigabytes_per_second: Figure
    prefill_gigaflops: Figure


@dataclass(frozen=True)
class Overhead:
    """What a generated token costs apart from reading: once, and for each layer.

    Threads wait for each other at each of a layer's operations, however small the matrices.
    """

    token_seconds: Figure
    layer_seconds: Figure


@dataclass(frozen=True)
class Defaults:
    """Settings to start from on this board."""

    threads: int | None
    context_length: int
    kv_type: str


@dataclass(frozen=True)
class Match:
    """How a running machine is recognised as this target.

    `device_tree` holds compatible strings and model names without the revision; `cpu` whole CPU
    names.
    """

    device_tree: tuple[str, ...]
    cpu: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """One board, or one memory size of it: `id` is rpi5-8gb where `board` is rpi5.

    `backend` names the llama.cpp backend (cpu, cuda, metal) that `kernels` were measured with.
    `kernels` is keyed by tensor type name; `prefill_gigaflops` stands in for the other types.
    `caches` has the gigabytes per second at which a KV cache of a type is read.
    """

    id: str
    board: str
    name: str
    vendor: str
    soc: str
    architecture: str
    backend: str
    cores: tuple[CoreCluster, ...]
    memory: Memory
    storage: tuple[str, ...]
    power: Power
    meters: tuple[str, ...]
    prefill_gigaflops: Figure
    kernels: Mapping[str, Kernel]
    caches: Mapping[str, Figure]
    overhead: Overhead
    defaults: Defaults
    match: Match

    @property
    def features(self) -> tuple[str, ...]:
        """What all its cores can do, as Linux names it."""
        first, *others = [cluster.features for cluster in self.cores] or [()]
        return tuple(name for name in first if all(name in other for other in others))

    def decode_gigabytes_per_second(self, tensor_type: str) -> Figure:
        """The figure for `tensor_type`, or the board's general one where it has none."""
        kernel = self.kernels.get(tensor_type)
        if kernel is None or kernel.decode_gigabytes_per_second.value is None:
            return self.memory.decode_gigabytes_per_second
        return kernel.decode_gigabytes_per_second

    def prefill_gigaflops_for(self, tensor_type: str) -> Figure:
        """The figure for `tensor_type`, or the board's general one where it has none."""
        kernel = self.kernels.get(tensor_type)
        if kernel is None or kernel.prefill_gigaflops.value is None:
            return self.prefill_gigaflops
        return kernel.prefill_gigaflops

    def cache_gigabytes_per_second(self, kv_type: str) -> Figure:
        """The figure for a KV cache of `kv_type`, or that for weights where it has none."""
        return self.caches.get(kv_type) or self.decode_gigabytes_per_second(kv_type)
