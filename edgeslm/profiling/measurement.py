"""The record of one profile run: what ran, where, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeslm.profiling.sustained import Sustained
from edgeslm.records import Figure, Statistic


@dataclass(frozen=True)
class ProfiledModel:
    """The model that was measured.

    Attributes:
        file_type: What the file is labelled as.
        llama_cpp_name: What llama.cpp calls it, as llama-bench prints it.
    """

    path: Path
    sha256: str
    architecture: str | None
    name: str | None
    file_bytes: int
    parameters: int
    bits_per_weight: float | None
    file_type: str | None
    llama_cpp_name: str


@dataclass(frozen=True)
class Settings:
    """How it was measured.

    Attributes:
        threads: For decode.
        prompt_tokens: Tokens per prefill run.
        generated_tokens: Tokens per decode run.
        depth: Tokens already in the KV cache when a run starts; the first of `depths`.
        repeats: Runs of each kind, after one that is not counted.
        depths: All of them.
        idle_seconds: Length of the idle baseline, where there is an instrument to read.
        budget_seconds: What the runs were allowed to take; None for no limit.
        shortened: What was shortened to keep to that; None if nothing was.
        most_repeats: Runs there might have been while a median was not known well; None for no
            more than `repeats`.
        warm_up_seconds: Of decoding that was not counted, before everything.
    """

    context_length: int
    kv_type: str
    threads: int
    prefill_threads: int
    batch: int
    ubatch: int
    prompt_tokens: int
    generated_tokens: int
    depth: int
    repeats: int
    depths: tuple[int, ...]
    idle_seconds: float
    budget_seconds: float | None
    shortened: str | None
    most_repeats: int | None = None
    warm_up_seconds: float = 0.0


@dataclass(frozen=True)
class Host:
    """The machine that ran it, and what ran there.

    Attributes:
        target: The board it is, or the closest one; `target_exact` says which.
        llama_cpp_commit: Of llama.cpp's source, as its build states it.
        edgeslm: This program's version.
    """

    target: str | None
    target_reasons: tuple[str, ...]
    cpu: str | None
    cores: int
    memory_bytes: int
    system: str
    python: str
    llama_cpp_python: str
    features: tuple[str, ...]
    llama_cpp_commit: str | None
    edgeslm: str
    target_exact: bool


@dataclass(frozen=True)
class Speed:
    """Repeated runs of prefill or decode.

    Attributes:
        tokens: Of one run.
        tokens_per_second: Of each run.
        seconds: Of each run.
        median_deviation: The median distance of a run from the median, in tokens per second.
        quartiles: A quarter of the runs was slower than the first, a quarter faster than the
            second.
    """

    tokens: int
    tokens_per_second: Statistic
    seconds: Statistic
    median_deviation: float
    quartiles: tuple[float, float]


@dataclass(frozen=True)
class TokenEnergy:
    """Joules per token of one kind of run.

    Attributes:
        gross: What the meter's scope drew, idle power included.
        gross_uncertainty: One sigma, in joules per token; None where `gross` is unknown.
        net: Without what the machine draws when idle.
        net_uncertainty: One sigma.
        seconds: How long it was measured for.
        enough_samples: Whether a stretch held at least ten changes of the meter's reading; None
            without a meter.
    """

    gross: Figure
    gross_uncertainty: float | None
    net: Figure
    net_uncertainty: float | None
    seconds: float
    enough_samples: bool | None


@dataclass(frozen=True)
class DepthRun:
    """Everything measured with `depth` tokens in the KV cache when a run starts."""

    depth: int
    prefill: Speed
    decode: Speed
    prefill_energy: TokenEnergy
    decode_energy: TokenEnergy


@dataclass(frozen=True)
class Moment:
    """What the machine said at one time; None where it does not tell.

    Attributes:
        seconds: Since the beginning.
        celsius: The highest of the processor's sensors.
        limit_celsius: Where the board begins to slow down.
        megahertz: Mean clock of the cores this process may use; of a core at rest it is low.
        most_megahertz: The highest the hardware can.
        held_back: What slowed the processor at that time.
        since_boot: What did since the machine was switched on; only a Raspberry Pi knows.
    """

    seconds: float
    celsius: float | None
    limit_celsius: float
    megahertz: float | None
    most_megahertz: float | None
    held_back: tuple[str, ...]
    since_boot: tuple[str, ...]


@dataclass(frozen=True)
class Conditions:
    """What the machine was like; None where it does not tell.

    Attributes:
        before: Before the model was opened.
        during: Just after each counted run, in their order.
        after: At the end.
        cores: That this process may use.
        other_cores_before: How many cores' time others took before the model was opened.
        other_cores: The same during the counted runs.
        busiest_other_cores: In the worst second of them, or the worst run that was longer; None if
            they were too short to tell.
        swapped_in_bytes: What came back from swap during the counted runs, of all processes.
        read_bytes: What a disk had to read for this process during them.
        major_faults: How often this process waited for a page from a disk during them.
        observed_seconds: How long they took, longer stretches for energy included.
    """

    before: Moment
    during: tuple[Moment, ...]
    after: Moment
    cores: int
    other_cores_before: float | None
    other_cores: float | None
    busiest_other_cores: float | None
    swapped_in_bytes: int | None
    read_bytes: int | None
    major_faults: int
    observed_seconds: float | None = None


@dataclass(frozen=True)
class MemoryLimit:
    """How the model got on in a control group with little memory.

    Attributes:
        limit_bytes: What the group could have.
        group: Which kind of group it was.
        verdict: "fits", "thrashes" or "killed".
        summary: The same as a sentence.
        peak_bytes: Most that the group had, pages of files included.
        limit_hits: How often it ran into the limit.
        oom_kills: Processes the kernel killed in it for want of memory.
        page_faults, major_faults: Of all its processes, from beginning to end.
        refaults: Pages of files that were read again after the kernel had dropped them.
        read_bytes_per_second: What a disk had to read during the counted runs.
        decode_tokens_per_second: Median in the group; None if it was killed.
        unlimited_tokens_per_second: The same without a limit, just before.
        copied: Whether a copy of the file was measured, since other processes held the original.
    """

    limit_bytes: int
    group: str
    verdict: str
    summary: str
    peak_bytes: int | None
    limit_hits: int | None
    oom_kills: int | None
    page_faults: int | None
    major_faults: int | None
    refaults: int | None
    read_bytes_per_second: float | None
    decode_tokens_per_second: float | None
    unlimited_tokens_per_second: float
    copied: bool


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of the process, in bytes; None where this system does not tell.

    Attributes:
        peak_rss_bytes: Most that was resident at once.
        before_load_rss_bytes: Resident before the model was opened: Python and its libraries.
        weights_resident_bytes: Pages of the model file that were resident at the end.
        weights_copied_bytes: Weights that llama.cpp copied, for example to interleave them.
        kv_bytes: Allocated for the KV cache, as llama.cpp states it.
        compute_bytes: Allocated for compute and logits, as llama.cpp states it.
        steady_rss_bytes: Resident after the last run.
        pss_bytes: The same, with pages that several processes have divided by their number.
        private_bytes: The part of it that no other process has.
        major_faults: How often the process waited for a page from a disk, loading included.
        limit: How it got on with little memory, if that was asked for.
    """

    peak_rss_bytes: int
    before_load_rss_bytes: int
    weights_resident_bytes: int | None
    weights_copied_bytes: int
    kv_bytes: int
    compute_bytes: int
    steady_rss_bytes: int
    pss_bytes: int | None
    private_bytes: int | None
    major_faults: int
    limit: MemoryLimit | None


@dataclass(frozen=True)
class Energy:
    """Energy per token at the first depth; `DepthRun` has that of each.

    Attributes:
        prefill_joules_per_token, decode_joules_per_token: Gross: what the meter's scope drew, idle
            power included.
        meter: What was read, None where the figures are estimated or unknown.
        scope: What the meter covers: "board", "package".
        notes: Which meters were looked for and why they were not used; what went wrong with one.
        prefill_net_joules_per_token, decode_net_joules_per_token: Without idle power.
        prefill_uncertainty_joules_per_token, decode_uncertainty_joules_per_token: One sigma of
            the gross figures; None where those are unknown.
        prefill_net_uncertainty_joules_per_token, decode_net_uncertainty_joules_per_token: Of the
            net figures.
        idle_watts: What the machine drew before the model was opened.
        idle_uncertainty_watts: One sigma.
        seconds: How long energy was measured for, at all depths.
        enough_samples: Whether each stretch held ten changes of the reading; None without a meter.
    """

    prefill_joules_per_token: Figure
    decode_joules_per_token: Figure
    meter: str | None
    scope: str | None
    notes: tuple[str, ...]
    prefill_net_joules_per_token: Figure
    decode_net_joules_per_token: Figure
    prefill_uncertainty_joules_per_token: float | None
    decode_uncertainty_joules_per_token: float | None
    prefill_net_uncertainty_joules_per_token: float | None
    decode_net_uncertainty_joules_per_token: float | None
    idle_watts: Figure
    idle_uncertainty_watts: float | None
    seconds: float
    enough_samples: bool | None


@dataclass(frozen=True)
class Measurement:
    """One profile run; `prefill`, `decode` and `energy` are those of the first depth.

    Attributes:
        measured_at: When it began, in ISO 8601, UTC.
        tainted: Whether something spoilt the figures.
        taints: What, in sentences.
        sustained: What lasts once the machine is warm, if that was asked for.
    """

    model: ProfiledModel
    settings: Settings
    host: Host
    memory: MemoryUse
    prefill: Speed
    decode: Speed
    energy: Energy
    depths: tuple[DepthRun, ...]
    conditions: Conditions
    tainted: bool
    taints: tuple[str, ...]
    sustained: Sustained | None
    measured_at: str
