"""The physical model of a token: what its time is a sum of, on any machine.

Decode reads every weight once, unpacks it, and lets the threads wait for each other:

    seconds = bytes / bandwidth + weights x cycles(type) / (threads x clock) + layers x pause

Reading and unpacking overlap little on small cores, so their times add up. Bandwidth belongs to
the board, and to the number of threads (more of them can get less out of the memory); cycles belong
to the tensor type and the kind of core. Prefill multiplies, so its seconds are weights x cycles /
(threads x clock) alone, and attention.

Each factor has a prior from the data sheet or from what processors of its kind can do, so that a
board or a type that nobody has measured is predicted too, less certainly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgeslm.estimate.regression import Prior, Term
from edgeslm.estimate.work import Work
from edgeslm.targets.target import CoreCluster, Target

ALL_CORES = "all"
"""Where threads are spread over several kinds of cores."""
_GPU_BACKENDS = ("cuda", "metal")
_DECODE_CYCLES: Mapping[str, float] = MappingProxyType(
    {"neon": 0.8, "dotprod": 0.35, "i8mm": 0.3, "avx2": 0.2, "gracemont": 0.5, "plain": 2.0}
)
"""Cycles of one core to unpack a weight and multiply it, by kind of core; a guess to begin with."""
_PREFILL_CYCLES: Mapping[str, float] = MappingProxyType(
    {"neon": 0.75, "dotprod": 0.15, "i8mm": 0.1, "avx2": 0.08, "gracemont": 0.3, "plain": 4.0}
)
"""The same in a prompt, where a weight is unpacked once for many tokens."""
_USUAL_MEGAHERTZ = 1500.0
_USUAL_SHARE, _GPU_SHARE = 0.5, 0.75
"""Of the memory's nominal bandwidth, what decode gets."""
_USUAL_GIGABYTES = 8.0
_PAUSE = 30e-6
"""Seconds per layer."""
_GPU_RATE = 1e-12
"""Seconds per weight and token of a prompt on a small GPU."""


@dataclass(frozen=True)
class Machine:
    """A board as this model sees it.

    Attributes:
        board: Its id, for all memory sizes.
        name: One specimen with its software, or "" for any.
        kind: Of cores: "neon", "dotprod", "avx2", ...; a backend for a GPU.
        threads: How many work.
        usual: How many work by default.
        hertz: Their clock.
        bandwidth: Nominal or known bandwidth in bytes per second, None where nobody knows.
        cores: Which cores, None for the fastest, `ALL_CORES` for several kinds.
        blas: Whether a prompt goes through a library for matrices, where types are not interleaved.
    """

    board: str
    name: str
    kind: str
    threads: int
    usual: int
    hertz: float
    bandwidth: float | None
    cores: str | None = None
    blas: bool = False

    @property
    def is_gpu(self) -> bool:
        """Whether a graphics processor computes."""
        return self.kind in _GPU_BACKENDS

    @property
    def where(self) -> str:
        """In words, what computes."""
        return f"graphics processors under {self.kind}" if self.is_gpu else f"{self.kind} cores"

    @property
    def setting(self) -> str:
        """How many threads on which cores, "" for the default."""
        if self.cores is None and self.threads == self.usual:
            return ""
        return f"{self.cores or 'fastest'} x{self.threads}"


def machine_of(
    target: Target,
    *,
    threads: int | None = None,
    cores: str | None = None,
    name: str = "",
    blas: bool = False,
) -> Machine:
    """How this model sees a target, with `threads` on `cores`: by default, as `cores_for` says."""
    cluster = _cluster(target, cores)
    kind = _kind(target, cluster)
    usual = target.defaults.threads or (
        int(cluster.count.value) if cluster and cluster.count.value else 4
    )
    megahertz = cluster.megahertz.value if cluster and cluster.megahertz.value else None
    threads = threads or usual
    return Machine(
        board=target.board,
        name=name,
        kind=kind,
        threads=threads,
        usual=usual,
        hertz=1e6 * (megahertz or _USUAL_MEGAHERTZ),
        bandwidth=_bandwidth(target, kind),
        cores=cores_for(target, threads) if cores is None else cores,
        blas=blas,
    )


def cores_for(target: Target, threads: int) -> str | None:
    """None for the fastest cores, `ALL_CORES` where those are too few for the threads."""
    fastest = _cluster(target, None)
    count = None if fastest is None else fastest.count.value
    return ALL_CORES if count is not None and threads > count else None


def decode_terms(machine: Machine, work: Work, depth: float, kv_type: str = "F16") -> list[Term]:
    """What the seconds of one generated token are a sum of, after `depth` others."""
    terms = standing_terms(machine, work, depth, kv_type)
    for name, count in work.read.items():
        terms += weight_terms(machine, name, count, work.multiplied.get(name, 0))
    return terms


def weight_terms(machine: Machine, name: str, count: float, weights: float) -> list[Term]:
    """What reading `count` bytes of a type, and multiplying its `weights`, takes of them."""
    terms = [Term(float(count), _read(machine))]
    if not machine.is_gpu:
        factors = (*_common("decode", machine), *_cycles("decode", name, machine))
        terms.append(Term(weights / (machine.threads * machine.hertz), factors))
    return terms


def standing_terms(machine: Machine, work: Work, depth: float, kv_type: str) -> list[Term]:
    """What a token takes whatever types the weights have: the cache, attention, pauses."""
    common = _common("decode", machine)
    terms = [Term(work.cache_bytes(depth, kv_type), _read(machine))]
    terms.append(Term(float(work.layers), (*common, (f"pause/{machine.board}", 1))))
    if not machine.is_gpu:
        attention = work.attention(depth) / (machine.threads * machine.hertz)
        terms.append(Term(attention, (*common, (f"decode-attention/{machine.kind}", 1))))
    return terms


def prefill_terms(machine: Machine, work: Work, tokens: float) -> list[Term]:
    """What the seconds per token of a prompt are a sum of, after `tokens` others on average."""
    common = (*_common("prefill", machine), *_setting("prefill", machine))
    rate = 1.0 if machine.is_gpu else 1 / (machine.threads * machine.hertz)
    terms = [
        Term(weights * rate, (*common, *_cycles("prefill", name, machine)))
        for name, weights in work.prompt.items()
    ]
    attention = work.attention(tokens) * rate
    terms.append(Term(attention, (*common, *_cycles("prefill", "attention", machine))))
    return terms


@dataclass(frozen=True)
class Priors:
    """The prior of each factor, by its name."""

    machines: Mapping[str, Machine]

    def __call__(self, name: str) -> Prior:
        """What is known of the factor called `name`."""
        what, _, rest = name.partition("/")
        if what == "bandwidth":
            return self._bandwidth(rest)
        if what in _CERTAIN:
            return _CERTAIN[what]
        kind = rest.rpartition("/")[2]
        if what in ("decode-kind", "prefill-kind"):
            usual = _DECODE_CYCLES if what == "decode-kind" else _PREFILL_CYCLES
            return Prior(math.log(usual.get(kind, _GPU_RATE)), 0.5 if kind in usual else 1.0)
        if what.endswith("-type"):
            return Prior(math.log(3.0) if rest == "attention" else 0.0, 0.5)
        # of a type on a kind of core; a library for matrices changes much for some types
        return Prior(0.0, 0.5 if what == "prefill-blas" else 0.3)

    def including(self, machine: Machine) -> Priors:
        """The same, and what the data sheet of `machine` says, where its board is none of these."""
        return (
            self
            if machine.board in self.machines
            else Priors({**self.machines, machine.board: machine})
        )

    def _bandwidth(self, board: str) -> Prior:
        machine = self.machines.get(board)
        if machine is None or machine.bandwidth is None:
            return Prior(math.log(_USUAL_GIGABYTES * 1e9), 0.8)
        return Prior(math.log(_share(machine.kind) * machine.bandwidth), 0.4)


_CERTAIN: Mapping[str, Prior] = MappingProxyType(
    {
        "decode-attention": Prior(math.log(2.0), 0.4),
        "pause": Prior(math.log(_PAUSE), 0.7),
        "decode-machine": Prior(0.0, 0.1),
        "prefill-machine": Prior(0.0, 0.1),
        "prefill-board": Prior(0.0, 0.3),
        "bandwidth-setting": Prior(0.0, 0.3),
        "prefill-setting": Prior(0.0, 0.2),
    }
)


def _read(machine: Machine) -> tuple[tuple[str, int], ...]:
    common = _common("decode", machine)
    return (*common, (f"bandwidth/{machine.board}", -1), *_setting("bandwidth", machine))


def _common(phase: str, machine: Machine) -> tuple[tuple[str, int], ...]:
    own = ((f"{phase}-machine/{machine.name}", 1),)
    return (*own, (f"{phase}-board/{machine.board}", 1)) if phase == "prefill" else own


def _setting(what: str, machine: Machine) -> tuple[tuple[str, int], ...]:
    if not machine.setting:
        return ()
    power = -1 if what == "bandwidth" else 1
    return ((f"{what}-setting/{machine.board}/{machine.setting}", power),)


def _cycles(phase: str, name: str, machine: Machine) -> tuple[tuple[str, int], ...]:
    common = (
        (f"{phase}-kind/{machine.kind}", 1),
        (f"{phase}-type/{name}", 1),
        (f"{phase}-cycles/{name}/{machine.kind}", 1),
    )
    own = f"{phase}-blas/{name}/{machine.kind}"
    return (*common, (own, 1)) if machine.blas and phase == "prefill" else common


def _cluster(target: Target, cores: str | None) -> CoreCluster | None:
    for cluster in target.cores:
        if cluster.name == cores:
            return cluster
    return max(target.cores, key=lambda each: each.megahertz.value or 0.0, default=None)


def _kind(target: Target, cluster: CoreCluster | None) -> str:
    if target.backend in _GPU_BACKENDS:
        return target.backend
    if cluster is None:
        return "plain"
    if cluster.name == "Gracemont":
        return "gracemont"
    for feature, kind in (("i8mm", "i8mm"), ("asimddp", "dotprod"), ("asimd", "neon")):
        if feature in cluster.features:
            return kind
    return "avx2" if "avx2" in cluster.features else "plain"


def _share(kind: str) -> float:
    return _GPU_SHARE if kind in _GPU_BACKENDS else _USUAL_SHARE


def _bandwidth(target: Target, kind: str) -> float | None:
    """Nominal, or what decode reaches over the share of the nominal that it usually has."""
    memory = target.memory
    if memory.nominal_gigabytes_per_second.value:
        return memory.nominal_gigabytes_per_second.value * 1e9
    known = memory.decode_gigabytes_per_second.value
    return known * 1e9 / _share(kind) if known else None
