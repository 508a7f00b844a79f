"""Figures of a running server, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgeslm.runtime.generation import Generation
from edgeslm.runtime.server.hosted import Hosted

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "edgeslm_requests_total": ("counter", "Requests that were answered, by path and status."),
    "edgeslm_answers_total": ("counter", "Answers that were generated, by why they ended."),
    "edgeslm_prompt_tokens_total": ("counter", "Tokens of prompts that were computed."),
    "edgeslm_reused_tokens_total": ("counter", "Tokens of prompts that were in the cache."),
    "edgeslm_generated_tokens_total": ("counter", "Tokens of answers."),
    "edgeslm_drafted_tokens_total": ("counter", "Tokens that were guessed ahead."),
    "edgeslm_accepted_tokens_total": ("counter", "How many of them were right."),
    "edgeslm_prefill_seconds_total": ("counter", "Time to the first token of each answer, added."),
    "edgeslm_decode_seconds_total": ("counter", "Time after the first token, added."),
    "edgeslm_open_requests": ("gauge", "Answers that are computed or wait."),
    "edgeslm_slots": ("gauge", "Answers that are computed at a time."),
    "edgeslm_resident_bytes": ("gauge", "Memory of this process, mapped weights included."),
    "edgeslm_temperature_celsius": ("gauge", "Of the processor, where it can be read."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts while a server runs; used in one event loop."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Labels], float] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count `amount` more of `name`."""
        key = (f"edgeslm_{name}_total", tuple(labels.items()))
        self._counts[key] = self._counts.get(key, 0) + amount

    def answered(self, model: str, answer: Generation) -> None:
        """Count an answer and what it took."""
        self.add("answers", model=model, reason=answer.finish_reason.value)
        if answer.prefill_seconds:  # else it was given up before any of its prompt was computed
            self.add("prompt_tokens", answer.prompt_tokens - answer.reused_tokens, model=model)
        self.add("reused_tokens", answer.reused_tokens, model=model)
        self.add("generated_tokens", len(answer.tokens), model=model)
        self.add("drafted_tokens", answer.drafted_tokens, model=model)
        self.add("accepted_tokens", answer.accepted_tokens, model=model)
        self.add("prefill_seconds", answer.prefill_seconds, model=model)
        self.add("decode_seconds", answer.decode_seconds, model=model)

    def text(self, models: Iterable[Hosted], machine: Mapping[str, float]) -> str:
        """All figures.

        Args:
            models: Whose queues are counted.
            machine: Figures of this machine, by name.
        """
        values = dict(self._counts)
        for hosted in models:
            label = (("model", hosted.name),)
            values["edgeslm_open_requests", label] = hosted.open_requests
            values["edgeslm_slots", label] = hosted.options.slots
        for name, value in machine.items():
            values[f"edgeslm_{name}", ()] = value
        lines = []
        for name, (kind, explanation) in _HELP.items():
            found = [(labels, value) for (key, labels), value in values.items() if key == name]
            if found:
                lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
                lines += [f"{name}{_written(labels)} {value:.10g}" for labels, value in found]
        return "".join(f"{line}\n" for line in lines)


def _written(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
