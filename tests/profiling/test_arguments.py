from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import measure
from edgeslm.cli.main import app
from edgeslm.errors import InvalidOption
from edgeslm.profiling.arguments import profile_arguments
from edgeslm.profiling.profile import ProfileOptions

UNUSUAL = ProfileOptions(
    threads=3,
    context_length=2000,
    kv_type="Q8_0",
    prompt_tokens=11,
    generated_tokens=12,
    depths=(5, 0),
    repeats=2,
    most_repeats=9,
    warm_up_seconds=1.5,
    idle_seconds=2.5,
    budget_seconds=70,
    sustained_seconds=80,
    meter="none",
)


@pytest.mark.parametrize(
    "options", [ProfileOptions(), UNUSUAL, replace(UNUSUAL, most_repeats=None)]
)
def test_the_words_mean_the_same_to_the_command(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, options: ProfileOptions
) -> None:
    seen: list[Any] = []

    def measured(_path: Path, wanted: ProfileOptions, limit: int | None) -> None:
        seen.extend((wanted, limit))
        raise SystemExit(0)

    monkeypatch.setattr(measure, "_measured", measured)
    with pytest.raises(SystemExit):
        app(["profile", str(tiny_model), *profile_arguments(options, 1 << 30)])
    assert seen == [options, 1 << 30]


def test_without_words_the_command_does_as_the_library(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def measured(_path: Path, wanted: ProfileOptions, _limit: int | None) -> None:
        seen.append(wanted)
        raise SystemExit(0)

    monkeypatch.delenv("EDGESLM_WARM_UP")
    monkeypatch.setattr(measure, "_measured", measured)
    for words in ([], ["--repeats", "5"]):
        with pytest.raises(SystemExit):
            app(["profile", str(tiny_model), *words])
    assert seen == [ProfileOptions(), ProfileOptions(repeats=5, most_repeats=None)]


@pytest.mark.parametrize("change", [{"batch": 64}, {"ubatch": 64}])
def test_what_the_command_has_no_words_for_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match="no other"):
        profile_arguments(ProfileOptions(**change))  # type: ignore[arg-type]
