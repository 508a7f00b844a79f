"""The words of `edgeslm profile` that measure what options say, for profiles in other processes."""

from __future__ import annotations

from edgeslm.errors import InvalidOption
from edgeslm.profiling.profile import ProfileOptions

_USUAL = ProfileOptions()
_WITHOUT_WORDS = ("batch", "ubatch")


def profile_arguments(options: ProfileOptions, memory_limit: int | None = None) -> list[str]:
    """What follows the file's name; the command prints JSON.

    Args:
        options: What to measure.
        memory_limit: Bytes that the measuring process may have; None for all there are.

    Raises:
        InvalidOption: the command line has no option for something that is not as usual.
    """
    for name in _WITHOUT_WORDS:
        if getattr(options, name) != getattr(_USUAL, name):
            raise InvalidOption(
                f"a profile in a process of its own takes no other {name} than the usual",
                hint=f"Leave {name} out.",
            )
    given = {
        "--prompt-tokens": options.prompt_tokens,
        "--tokens": options.generated_tokens,
        "--depth": ",".join(map(str, options.depths)),
        "--repeats": options.repeats,
        "--most-repeats": options.most_repeats,
        "--warm-up": options.warm_up_seconds,
        "--idle": options.idle_seconds,
        "--budget": options.budget_seconds,
        "--sustained": options.sustained_seconds,
        "--memory-limit": memory_limit,
        "--kv-type": options.kv_type,
        "--context": options.context_length,
        "--threads": options.threads,
        "--meter": options.meter,
    }
    pairs = [(name, f"{value}") for name, value in given.items() if value is not None]
    return ["--json", *(word for pair in pairs for word in pair)]
