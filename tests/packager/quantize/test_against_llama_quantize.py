"""Our files against those of llama-quantize, built from the same llama.cpp."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgeslm.gguf.reader import read_header
from edgeslm.packager.quantize import quantize
from edgeslm.testing import tiny_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SIX_TYPES = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q2_K")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def llama_quantize():
    """The program, from EDGESLM_LLAMA_TOOLS or built now."""
    folder = os.environ.get("EDGESLM_LLAMA_TOOLS")
    if folder is None:
        # not in the tests' own cache: it would be built again each time
        environment = {key: value for key, value in os.environ.items() if key != "EDGESLM_CACHE"}
        built = subprocess.run(
            [ROOT / "scripts" / "build_llama_tools", "llama-quantize"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        folder = built.stdout.splitlines()[-1]
    program = Path(folder) / "llama-quantize"
    assert program.is_file()
    return program


@pytest.fixture(scope="session", params=["fits 256", "mixed", "no multiple of 256", "SmolLM2"])
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    if request.param == "SmolLM2":
        source = os.environ.get("EDGESLM_SMOLLM2_GGUF")
        if source is None:
            pytest.skip("EDGESLM_SMOLLM2_GGUF names no file")
        return quantize(Path(source), path, file_type="F16").path
    width, inner = {"fits 256": (256, 512), "mixed": (96, 256), "no multiple of 256": (96, 160)}[
        request.param
    ]
    return tiny_gguf(
        path, width=width, feed_forward=inner, heads=4 if width == 256 else 3, layers=8
    )


@pytest.mark.parametrize("file_type", SIX_TYPES)
def test_tensor_data_is_byte_identical(llama_quantize, model, tmp_path, file_type):
    theirs = tmp_path / "theirs.gguf"
    subprocess.run([llama_quantize, model, theirs, file_type, "2"], check=True, capture_output=True)
    ours = quantize(model, tmp_path / "ours.gguf", file_type=file_type, threads=2).path
    expected, found = read_header(theirs), read_header(ours)
    assert [(each.name, each.type) for each in found.tensors] == [
        (each.name, each.type) for each in expected.tensors
    ]
    assert np.array_equal(
        np.memmap(ours, np.uint8, "r", found.data_offset),
        np.memmap(theirs, np.uint8, "r", expected.data_offset),
    )
