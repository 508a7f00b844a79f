"""What should happen before anything runs: memory, speed and energy from a header and a target."""

from __future__ import annotations

from edgeslm.estimate.energy import decode_joules_per_token
from edgeslm.estimate.memory import plan_memory
from edgeslm.estimate.prediction import predict
from edgeslm.estimate.speed import decode_tokens_per_second, prefill_tokens_per_second

__all__ = [
    "decode_joules_per_token",
    "decode_tokens_per_second",
    "plan_memory",
    "predict",
    "prefill_tokens_per_second",
]
