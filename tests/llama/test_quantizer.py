import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import edgeslm
from edgeslm.errors import (
    InvalidOption,
    NativeFailure,
    NotFound,
    OutputFailure,
    Unsupported,
)
from edgeslm.gguf.reader import read_header
from edgeslm.gguf.types import tensor_type
from edgeslm.llama import quantizer
from edgeslm.llama.quantizer import (
    QuantizeOptions,
    file_type_name,
    quantizable_tensors,
    quantize_file,
)
from edgeslm.testing import tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Widths that are multiples of 256 and others that are not."""
    return tiny_gguf(
        tmp_path_factory.mktemp("model") / "model.gguf", width=96, feed_forward=256, heads=3
    )


def types(path):
    return {tensor.name: tensor.type.name for tensor in read_header(path).tensors}


@pytest.mark.parametrize(
    ("text", "name"),
    [("q4_k", "Q4_K_M"), (" Q8_0 ", "Q8_0"), ("copy", "COPY"), ("iq4_xs", "IQ4_XS")],
)
def test_names_are_those_of_llama_quantize(text, name):
    assert file_type_name(text) == name


def test_an_unknown_name_gets_close_ones():
    with pytest.raises(InvalidOption) as caught:
        file_type_name("Q4_KM")
    assert "Q4_KM" in caught.value.message
    assert "Q4_K_M" in (caught.value.hint or "")


def test_types_fall_back_where_rows_do_not_fit(model, tmp_path):
    fallbacks = quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("Q4_K_M", threads=1))
    found = types(tmp_path / "out.gguf")
    assert found["blk.0.ffn_down.weight"] == "Q4_K"
    assert found["blk.1.ffn_down.weight"] == "Q6_K"
    assert found["blk.0.attn_q.weight"] == "Q5_0"
    assert found["blk.0.attn_norm.weight"] == "F32"
    assert fallbacks == 12  # of two layers: q, k, v, output, gate and up


def test_overrides_win_and_match_whole_names(model, tmp_path):
    chosen = {"blk.1.attn_q.weight": "Q8_0", "token_embd.weight": "IQ4_NL"}
    overrides = tuple((name, tensor_type(kind)) for name, kind in chosen.items())
    quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("Q4_0", 1, overrides=overrides))
    found = types(tmp_path / "out.gguf")
    assert {name: found[name] for name in chosen} == chosen
    assert found["blk.0.attn_q.weight"] == "Q4_0"


def test_an_override_that_llama_cpp_does_not_heed_is_an_error(model, tmp_path):
    overrides = (("blk.0.attn_q.weight", tensor_type("Q4_K")),)
    with pytest.raises(NativeFailure, match="as Q5_0, not as Q4_K"):
        quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("Q8_0", 1, overrides=overrides))
    assert list(tmp_path.iterdir()) == []


def test_quantizable_tensors_are_the_matrices(model):
    names = quantizable_tensors(model)
    matrices = {tensor.name for tensor in read_header(model).tensors if len(tensor.shape) > 1}
    assert names == matrices


@pytest.mark.parametrize("more", [(), ("Q5_0", "Q5_1", "Q4_1")])
def test_quantizable_tensors_of_a_file_of_many_types(tmp_path, more):
    kinds = ("BF16", "F16", "Q8_0", "Q4_0", *more)
    model = tiny_gguf(tmp_path / "model.gguf", layers=2)
    names = [t.name for t in read_header(model).tensors if "attn" in t.name and len(t.shape) > 1]
    overrides = tuple((name, tensor_type(kind)) for name, kind in zip(names, kinds, strict=False))
    mixed = tmp_path / "mixed.gguf"
    options = QuantizeOptions("Q8_0", 1, allow_requantize=True, overrides=overrides)
    quantize_file(model, mixed, options)
    if more:
        with pytest.raises(Unsupported, match="every type"):
            quantizable_tensors(mixed)
    else:
        assert set(names) <= quantizable_tensors(mixed)


def test_requantizing_has_to_be_allowed(model, tmp_path):
    small = tmp_path / "small.gguf"
    quantize_file(model, small, QuantizeOptions("Q8_0", 1))
    with pytest.raises(NativeFailure, match=r"requantizing from type q8_0 is disabled"):
        quantize_file(small, tmp_path / "out.gguf", QuantizeOptions("Q4_0", 1))
    assert not (tmp_path / "out.gguf").exists()
    quantize_file(small, tmp_path / "out.gguf", QuantizeOptions("Q4_0", 1, allow_requantize=True))
    assert types(tmp_path / "out.gguf")["blk.0.attn_q.weight"] == "Q4_0"


def test_copy_changes_no_tensor(model, tmp_path):
    quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("COPY", 1))
    assert types(tmp_path / "out.gguf") == types(model)


def test_a_type_that_needs_importances_is_refused_before_it_starts(model, tmp_path):
    with pytest.raises(Unsupported, match="importance matrix"):
        quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("IQ2_XS", 1))
    assert list(tmp_path.iterdir()) == []


def test_the_source_is_never_overwritten(model):
    before = model.read_bytes()
    with pytest.raises(InvalidOption, match="source itself"):
        quantize_file(model, model, QuantizeOptions("Q8_0", 1))
    assert model.read_bytes() == before


def test_a_missing_source_and_an_unwritable_output(model, tmp_path):
    with pytest.raises(NotFound):
        quantize_file(tmp_path / "none.gguf", tmp_path / "out.gguf", QuantizeOptions("Q8_0", 1))
    with pytest.raises(OutputFailure):
        quantize_file(model, tmp_path / "no" / "out.gguf", QuantizeOptions("Q8_0", 1))


def test_an_output_whose_name_is_too_long(model, tmp_path):
    with pytest.raises(OutputFailure, match="too long"):
        quantize_file(model, tmp_path / ("x" * 300), QuantizeOptions("Q8_0", 1))


@contextmanager
def file_size_limit(limit):
    """Writes beyond `limit` fail, as on a full disk; Python ignores the signal for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_a_full_disk_leaves_what_was_there(model, tmp_path, limit):
    output = tmp_path / "out.gguf"
    output.write_bytes(b"before")
    with file_size_limit(limit), pytest.raises(OutputFailure, match=r"out\.gguf"):
        quantize_file(model, output, QuantizeOptions("F16", 1))
    assert output.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_an_abort_in_native_code_is_an_error(model, tmp_path, monkeypatch):
    words = "ggml.c:1: GGML_ASSERT(false) failed"
    script = f"import os, sys; print({words!r}, file=sys.stderr, flush=True); os.abort()"
    start = subprocess.Popen
    monkeypatch.setattr(
        quantizer.subprocess,
        "Popen",
        lambda _, **options: start([sys.executable, "-c", script], **options),
    )
    with pytest.raises(NativeFailure, match=r"GGML_ASSERT\(false\)"):
        quantize_file(model, tmp_path / "out.gguf", QuantizeOptions("Q8_0", 1))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path):
    model = tiny_gguf(tmp_path / "model.gguf", width=512, feed_forward=2048, heads=4)
    script = (
        "import sys; from pathlib import Path\n"
        "from edgeslm.llama.quantizer import *\n"
        "quantize_file(Path(sys.argv[1]), Path(sys.argv[2]), QuantizeOptions('IQ3_S', 1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, model, tmp_path / "out.gguf"],
        env=os.environ | {"PYTHONPATH": str(Path(edgeslm.__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 2000 for path in tmp_path.glob(".edgeslm-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # to the parent alone: it has to end its child
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
