"""Our files against those of llama-quantize, built from the same llama.cpp."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgeslm.gguf.imatrix import read_imatrix, write_imatrix
from edgeslm.gguf.reader import read_header
from edgeslm.packager.quantize import quantize
from edgeslm.testing import tiny_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

IMPORTANCE_TYPES = ("IQ2_XS", "IQ3_XXS", "Q4_K_M", "Q2_K_S")
SIX_TYPES = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q2_K")
ROOT = Path(__file__).parents[3]


def tool(name):
    """A program of llama.cpp, from EDGESLM_LLAMA_TOOLS or built now."""
    folder = os.environ.get("EDGESLM_LLAMA_TOOLS")
    if folder is None:
        # not in the tests' own cache: it would be built again each time
        environment = {key: value for key, value in os.environ.items() if key != "EDGESLM_CACHE"}
        built = subprocess.run(
            [ROOT / "scripts" / "build_llama_tools", name],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        folder = built.stdout.splitlines()[-1]
    program = Path(folder) / name
    assert program.is_file()
    return program


@pytest.fixture(scope="session")
def llama_quantize():
    return tool("llama-quantize")


@pytest.fixture(scope="session")
def llama_imatrix():
    return tool("llama-imatrix")


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
    ours = quantize(model, tmp_path / "ours.gguf", file_type=file_type).path
    assert_same_tensors(ours, theirs)


def assert_same_tensors(ours, theirs):
    expected, found = read_header(theirs), read_header(ours)
    assert [(each.name, each.type) for each in found.tensors] == [
        (each.name, each.type) for each in expected.tensors
    ]
    assert np.array_equal(
        np.memmap(ours, np.uint8, "r", found.data_offset),
        np.memmap(theirs, np.uint8, "r", expected.data_offset),
    )


@pytest.fixture(scope="session", params=["gguf", "dat"])
def imatrix(request, llama_imatrix, model, tmp_path_factory):
    """Made by llama-imatrix, with the text of these pages."""
    folder = tmp_path_factory.mktemp("imatrix")
    text = folder / "text.txt"
    text.write_text("".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))))
    output = folder / f"imatrix.{request.param}"
    command = [
        *(llama_imatrix, "-m", model, "-f", text, "-o", output, "--output-format", request.param),
        *("-c", "64", "-b", "64", "--chunks", "3", "-t", "1", "--no-ppl"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return output


@pytest.mark.parametrize("file_type", IMPORTANCE_TYPES)
def test_files_with_importances_are_identical(llama_quantize, model, imatrix, tmp_path, file_type):
    theirs = tmp_path / "theirs.gguf"
    command = [llama_quantize, "--imatrix", imatrix, model, theirs, file_type, "2"]
    subprocess.run(command, check=True, capture_output=True)
    ours = quantize(model, tmp_path / "ours.gguf", file_type=file_type, imatrix=imatrix).path
    assert_same_tensors(ours, theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def test_llama_quantize_reads_what_we_write(llama_quantize, model, imatrix, tmp_path):
    ours = tmp_path / "ours.imatrix.gguf"
    write_imatrix(ours, read_imatrix(imatrix))
    if imatrix.suffix == ".gguf":
        assert ours.read_bytes() == imatrix.read_bytes()
    files = []
    for matrix in (imatrix, ours):
        files.append(tmp_path / f"{len(files)}.gguf")
        command = [llama_quantize, "--imatrix", matrix, model, files[-1], "Q4_K_M", "2"]
        subprocess.run(command, check=True, capture_output=True)
    assert_same_tensors(*files)
