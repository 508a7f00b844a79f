from __future__ import annotations

from edgeslm.llama.buffers import buffer_bytes
from edgeslm.llama.native import LogLine

LOG = """\
load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
load_tensors:   CPU_REPACK model buffer size =    12.50 MiB
llama_kv_cache:        CPU KV buffer size =    11.25 MiB
llama_kv_cache: size =   11.25 MiB (   512 cells,  30 layers,  1/1 seqs), K (f16):    5.62 MiB
llama_memory_recurrent:        CPU RS buffer size =     1.00 MiB
llama_context:        CPU  output buffer size =     0.25 MiB
sched_reserve:        CPU compute buffer size =    98.25 MiB
"""


def test_each_kind_of_buffer_is_summed() -> None:
    lines = [LogLine(2, line) for line in LOG.splitlines()]
    assert buffer_bytes(lines) == {
        "mapped_weights": round(92.10 * 2**20),
        "weights": round(12.50 * 2**20),
        "kv": round(12.25 * 2**20),
        "compute": round(98.50 * 2**20),
    }


def test_a_log_without_buffers_gives_nothing() -> None:
    assert buffer_bytes([LogLine(2, "constructing llama_context")]) == {}
