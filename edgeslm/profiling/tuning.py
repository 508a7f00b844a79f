"""Find the fastest settings for a model on this machine, and keep them.

One setting after the other is chosen, each by a race of its values with the others held: threads
for decode and the cores to run them on, threads for prefill, the micro-batch. They hardly depend on
each other, so no grid is needed. Then the choice runs as a whole against the defaults, in turn;
where it is clearly slower after all, the default stays, and what is left runs again. The type of
the KV cache comes last: it is used only where asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeAlias

from edgeslm.errors import InvalidOption, NativeFailure, UserError
from edgeslm.llama.model import Model
from edgeslm.profiling.racing import Race, Rounds, between, clearly_faster, counts, race, spread
from edgeslm.profiling.trials import Lengths, Trials
from edgeslm.progress import bar
from edgeslm.records import Statistic
from edgeslm.runtime import tuned
from edgeslm.runtime.cores import allowed_cores, clusters, core_sets
from edgeslm.runtime.machine import CpuTimes, Heat, Sensors, cores_taken
from edgeslm.runtime.tuned import Choice, Speeds, Tuned, default_choice, place_of

_Samples: TypeAlias = dict[Choice, tuple[float, ...]]
_UBATCHES = (64, 128, 256, 512)
_KV_TYPES = ("F16", "Q8_0")
_BUSY_CORES = 0.15
"""Of a core: if others take more, the figures are not this machine's."""
_LISTEN_SECONDS = 0.5
_PROBE_PROMPT, _PROBE_TOKENS = 64, 8
_SHORTEST_PROMPT, _LONGEST_PROMPT = 64, 512
_FEWEST_TOKENS, _MOST_TOKENS = 8, 128
_FILL_SECONDS = 20.0
"""At most so long is spent on filling the cache that decode starts on."""
_LONGEST_RUN_SECONDS = 60.0
_LEAST_CONTEXT = 128


@dataclass(frozen=True)
class TuneOptions:
    """How to search.

    Attributes:
        context_length: Tokens of the contexts that are measured.
        quick: Shorter and fewer runs.
        anyway: Keep the choice even if other programs computed meanwhile.
        threads: Most threads to try; None for all cores this process may use.
    """

    context_length: int = 2048
    quick: bool = False
    anyway: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.context_length < _LEAST_CONTEXT:
            raise InvalidOption(
                f"a context of {self.context_length} tokens is too short to tune with",
                hint=f"At least {_LEAST_CONTEXT}.",
            )
        if self.threads is not None and self.threads < 1:
            raise InvalidOption(f"{self.threads} threads", hint="Give 1 or more, or none.")

    @property
    def rounds(self) -> Rounds:
        """How often each setting runs."""
        return Rounds(2, 3) if self.quick else Rounds(3, 6)

    @property
    def run_seconds(self) -> float:
        """What a run should take about."""
        return 0.25 if self.quick else 1.0


@dataclass(frozen=True)
class Trial:
    """One value of a setting, and how fast it was; `given_up` if it was clearly slower."""

    value: str
    tokens_per_second: Statistic
    given_up: bool


@dataclass(frozen=True)
class Finding:
    """One setting: what was tried, what was chosen, and why.

    Attributes:
        setting: Its name.
        measured: "prefill" or "decode".
        trials: What was tried, the simplest value first.
        chosen: The value.
        reason: In words.
    """

    setting: str
    measured: str
    trials: tuple[Trial, ...]
    chosen: str
    reason: str


@dataclass(frozen=True)
class Tuning:
    """What came of it.

    Attributes:
        tuned: The choice, and how it compares with the defaults.
        findings: How it was found.
        notes: What of the findings did not hold against the defaults.
        lengths: Of the runs.
        other_cores: How many cores' time other programs took meanwhile; None if nobody tells.
        heat_before, heat_after: How warm the machine was.
        kept: Where the choice lies; None if it was not kept.
        replaced: What was kept before.
        warnings: Why the figures may be wrong.
    """

    tuned: Tuned
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    lengths: Lengths
    other_cores: float | None
    heat_before: Heat
    heat_after: Heat
    kept: Path | None
    replaced: Choice | None
    warnings: tuple[str, ...]


def cores_of_others(sensors: Sensors, seconds: float = _LISTEN_SECONDS) -> float | None:
    """How many cores' time other programs take now; None where the system does not say."""
    before = sensors.cpu_times()
    time.sleep(seconds)
    return others_between(before, sensors.cpu_times())


def is_busy(other_cores: float | None) -> bool:
    """Whether other programs take so much that figures would not be this machine's."""
    return other_cores is not None and other_cores > _BUSY_CORES


def tune(path: Path, options: TuneOptions) -> Tuning:
    """Find the best settings for the model at `path`, and keep them.

    Raises:
        EdgeslmError: the model cannot be loaded, a run failed, or nothing can be kept.
    """
    sensors = Sensors(ask_firmware=True)
    heat_before, before = sensors.heat(), sensors.cpu_times()
    with Model(path) as model:
        if not model.can_generate:
            raise UserError(
                f"{path}: this is an embedding model, it generates no text",
                hint="Choose a language model.",
            )
        place = place_of(model.header)
        known = tuned.find(place)
        context = min(options.context_length, max(_LEAST_CONTEXT, model.trained_context_length))
        with ExitStack() as stack:
            search = _Search(stack, model, options, context)
            choice = search.run()
            found = Tuned(
                place=place,
                model_name=path.name,
                tuned_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                context_length=context,
                choice=choice,
                defaults=search.defaults,
                chosen_speeds=search.chosen_speeds,
                default_speeds=search.default_speeds,
            )
            findings, notes = tuple(search.findings), tuple(search.notes)
            lengths = search.trials.lengths
    others = others_between(before, sensors.cpu_times())
    heat_after = sensors.heat()
    keep = options.anyway or not is_busy(others)
    return Tuning(
        tuned=found,
        findings=findings,
        notes=notes,
        lengths=lengths,
        other_cores=others,
        heat_before=heat_before,
        heat_after=heat_after,
        kept=tuned.save(found) if keep else None,
        replaced=known.choice if known is not None else None,
        warnings=(*_busy_warnings(others, keep=keep), *_heat_warnings(heat_before, heat_after)),
    )


class _Search:
    """The races, one after the other; each finding narrows down the choice."""

    def __init__(self, stack: ExitStack, model: Model, options: TuneOptions, context: int) -> None:
        self.defaults = self.choice = _limited(default_choice(), options.threads)
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self._options = options
        self.trials = stack.enter_context(
            Trials(model, Lengths(context, min(_PROBE_PROMPT, context // 2), _PROBE_TOKENS, 0))
        )

    def run(self) -> Choice:
        """Search, compare with the defaults, and return what is best."""
        self._plan_lengths()
        self._decode_threads()
        self._prefill_threads()
        self._ubatch()
        self._compare()
        self._kv_type()
        return self.choice

    def _plan_lengths(self) -> None:
        """Make runs long enough to be timed, and no longer than a slow board can bear."""
        trials, context = self.trials, self.trials.lengths.context
        reading, writing = trials.prefill(self.choice), trials.decode(self.choice)
        seconds = self._options.run_seconds
        prompt = _within(reading * seconds, _SHORTEST_PROMPT, _LONGEST_PROMPT) // 64 * 64
        depth = 0 if self._options.quick else min(context // 4, int(reading * _FILL_SECONDS))
        trials.lengths = Lengths(
            context,
            prompt=min(prompt, context // 2),
            generated=min(_within(writing * seconds, _FEWEST_TOKENS, _MOST_TOKENS), context // 4),
            depth=depth,
        )
        self._longest_prompt = min(_LONGEST_PROMPT, context, int(reading * _LONGEST_RUN_SECONDS))

    def _decode_threads(self) -> None:
        most = self._most_threads(allowed_cores())
        tried = counts(most)
        choices = [replace(self.choice, threads=number) for number in tried]
        found = self._race("decode threads", choices, self.trials.decode, _threads_text)
        more = between(tried, found.best.threads)
        if more:
            numbers = sorted({found.best.threads, *more})
            choices = [replace(self.choice, threads=number) for number in numbers]
            found = self._race("decode threads", choices, self.trials.decode, _threads_text)
        self.choice = found.best
        for cores in core_sets(clusters()):
            if cores is not None:
                self._cores(cores)

    def _cores(self, cores: tuple[int, ...]) -> None:
        """Whether to run on these cores only."""
        choices = [
            self.choice,
            *(
                replace(self.choice, threads=number, cores=cores)
                for number in counts(self._most_threads(cores))
            ),
        ]
        self.choice = self._race("cores", choices, self.trials.decode, _cores_text).best

    def _prefill_threads(self) -> None:
        most = self._most_threads(self.choice.cores or allowed_cores())
        choices = [replace(self.choice, prefill_threads=number) for number in counts(most)]
        found = self._race("prefill threads", choices, self.trials.prefill, _prefill_text)
        self.choice = found.best

    def _ubatch(self) -> None:
        sizes = [size for size in _UBATCHES if size <= self._longest_prompt]
        if self._options.quick:
            sizes = sizes[::-2][::-1]
        if len(sizes) < 2:
            return
        lengths = self.trials.lengths
        self.trials.lengths = replace(lengths, prompt=max(sizes))
        choices = [replace(self.choice, ubatch=size) for size in sizes]
        found = self._race("micro-batch", choices, self.trials.prefill, _ubatch_text)
        self.choice = found.best
        self.trials.lengths = lengths

    def _kv_type(self) -> None:
        choices = [replace(self.choice, kv_type=name) for name in _KV_TYPES]
        with suppress(NativeFailure):  # not every model can have both
            found = self._race("KV cache", choices, self.trials.decode, _kv_text)
            self.choice = found.best

    def _compare(self) -> None:
        """Run the choice as a whole against the defaults; a part that is slower after all goes.

        What is left runs again, so that the speeds kept are of settings that ran together. All with
        the default's type of cache, which is what runs unless another is asked for.
        """
        while True:
            decode, prefill = self._beside_defaults()
            left = self._without_what_is_slower(decode, prefill)
            if left == self.choice:
                break
            self.choice = left
        kv_type = self.choice.kv_type
        self.default_speeds = _speeds(prefill[self.defaults], decode[self.defaults], kv_type)
        self.chosen_speeds = _speeds(prefill[self.choice], decode[self.choice], kv_type)

    def _beside_defaults(self) -> tuple[_Samples, _Samples]:
        """Decode and prefill of the choice and of the defaults, in turn."""
        most = self._options.rounds.most
        rounds = Rounds(most, most)
        both = list(dict.fromkeys((self.defaults, self.choice)))
        with bar("Comparing with the defaults", 2 * len(both) * most, unit="runs") as advance:
            decode = race(both, self.trials.decode, rounds, after_run=advance).samples
            prefill = race(both, self.trials.prefill, rounds, after_run=advance).samples
        return decode, prefill

    def _without_what_is_slower(self, decode: _Samples, prefill: _Samples) -> Choice:
        """The choice with the defaults' settings where those were clearly faster."""
        left, slower = self.choice, False
        if clearly_faster(decode[self.defaults], decode[self.choice]):
            slower = True
            left = replace(left, threads=self.defaults.threads, cores=None)
            self._note("decode")
        if clearly_faster(prefill[self.defaults], prefill[self.choice]):
            slower = True
            left = replace(
                left,
                prefill_threads=self.defaults.prefill_threads,
                ubatch=self.defaults.ubatch,
            )
            self._note("prefill")
        # what makes it slower is then in the other part
        return self.defaults if slower and left == self.choice else left

    def _note(self, part: str) -> None:
        note = f"{part}: the defaults were clearly faster after all, and stay"
        if note not in self.notes:
            self.notes.append(note)

    def _race(
        self,
        setting: str,
        choices: Sequence[Choice],
        measure: Callable[[Choice], float],
        text: Callable[[Choice], str],
    ) -> Race[Choice]:
        total = len(choices) * self._options.rounds.most
        with bar(f"Trying {setting}", total, unit="runs") as advance:
            found = race(choices, measure, self._options.rounds, after_run=advance)
        trials = tuple(
            Trial(text(each), Statistic.of(samples), each in found.given_up)
            for each, samples in found.samples.items()
        )
        kind = "prefill" if measure == self.trials.prefill else "decode"
        self.findings.append(Finding(setting, kind, trials, text(found.best), _reason(found, text)))
        return found

    def _most_threads(self, cores: Sequence[int]) -> int:
        return min(len(cores), self._options.threads or len(cores))


def _reason(found: Race[Choice], text: Callable[[Choice], str]) -> str:
    """Why this value was chosen."""
    best = Statistic.of(found.samples[found.best]).median
    rest = {
        each: Statistic.of(samples).median
        for each, samples in found.samples.items()
        if each != found.best
    }
    if not rest:
        return "nothing else to try"
    second = max(rest, key=lambda each: rest[each])
    if clearly_faster(found.samples[found.best], found.samples[second]):
        return f"{best / rest[second] - 1:.0%} faster than {text(second)}"
    noise = spread(found.samples[found.best]) + spread(found.samples[second])
    return f"simpler than {text(second)}, and as fast within the noise ({noise / best:.1%})"


def _threads_text(choice: Choice) -> str:
    return f"{choice.threads}"


def _prefill_text(choice: Choice) -> str:
    return f"{choice.prefill_threads}"


def _ubatch_text(choice: Choice) -> str:
    return f"{choice.ubatch}"


def _kv_text(choice: Choice) -> str:
    return choice.kv_type


def _cores_text(choice: Choice) -> str:
    cores = "any cores" if choice.cores is None else f"cores {','.join(map(str, choice.cores))}"
    return f"{choice.threads} on {cores}"


def _limited(choice: Choice, threads: int | None) -> Choice:
    if threads is None:
        return choice
    return replace(
        choice,
        threads=min(choice.threads, threads),
        prefill_threads=min(choice.prefill_threads, threads),
    )


def _within(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))


def _speeds(prefill: Sequence[float], decode: Sequence[float], kv_type: str) -> Speeds:
    return Speeds(Statistic.of(prefill), Statistic.of(decode), kv_type)


def others_between(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Those of lower priority count too: they use what a run with few threads leaves free."""
    if before is None or after is None:
        return None
    taken = cores_taken(before, after)
    return taken.others + taken.polite


def _busy_warnings(others: float | None, *, keep: bool) -> tuple[str, ...]:
    if others is None or not is_busy(others):
        return ()
    what = "the choice may be wrong" if keep else "nothing is kept; tune again when it is idle"
    return (f"other programs took the time of {others:.1f} cores meanwhile: {what}",)


def _heat_warnings(before: Heat, after: Heat) -> tuple[str, ...]:
    names = sorted({*before.held_back, *after.held_back})
    if not names:
        return ()
    return (f"the machine was held back meanwhile: {', '.join(names)}; cool it, and tune again",)
