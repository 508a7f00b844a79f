"""Our figures against those of llama-perplexity, with the commands that docs/evaluate.md shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from shown_commands import RUN_ELSEWHERE, shown_commands

from edgeslm.llama.model import Model
from edgeslm.packager.evaluate import QualityCard, Reference, evaluate_against
from edgeslm.packager.evaluate.store import Store
from edgeslm.packager.quantize import Effort, quantize

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[3]
CHUNKS = 20
THREADS = 2
EFFORT = Effort(threads=THREADS)


@pytest.fixture(scope="module")
def llama_perplexity() -> Path:
    """The program, from EDGESLM_LLAMA_TOOLS or built now."""
    folder = os.environ.get("EDGESLM_LLAMA_TOOLS")
    if folder is None:
        # not in the tests' own cache: it would be built again each time
        environment = {key: value for key, value in os.environ.items() if key != "EDGESLM_CACHE"}
        built = subprocess.run(
            [ROOT / "scripts" / "build_llama_tools", "llama-perplexity"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        folder = built.stdout.splitlines()[-1]
    program = Path(folder) / "llama-perplexity"
    assert program.is_file()
    return program


@pytest.fixture(scope="module")
def folder(llama_perplexity: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files the page names, and what the first of its commands makes."""
    source = os.environ.get("EDGESLM_SMOLLM2_GGUF")
    if source is None:
        pytest.skip("EDGESLM_SMOLLM2_GGUF names no file")
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "model.gguf").symlink_to(source)
    reference = Reference(folder / "model.gguf", store=Store(), chunks=CHUNKS, threads=THREADS)
    # the first twenty chunks and a little: what both programs cut off
    (folder / "letters.txt").write_bytes(reference.text.path.read_bytes())
    _run(llama_perplexity, folder, 0)
    return folder


def _run(program: Path, folder: Path, number: int) -> str:
    """What a command of the page prints."""
    page = ROOT / "docs" / "evaluate.md"
    commands = [each for each in shown_commands(page) if each.split()[0] in RUN_ELSEWHERE]
    _, *arguments = shlex.split(commands[number])
    done = subprocess.run(
        [program, *arguments, "--threads", str(THREADS), "--chunks", str(CHUNKS)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def _theirs(printed: str, label: str) -> float:
    match = re.search(rf"{label}\s*:\s*([\d.]+)", printed)
    assert match, printed[-3000:]
    return float(match[1])


def _ours(folder: Path) -> QualityCard:
    reference = Reference(
        folder / "model.gguf", folder / "letters.txt", chunks=CHUNKS, threads=THREADS
    )
    return evaluate_against(reference, folder / "small.gguf")


@pytest.mark.parametrize("file_type", ["Q4_K_M", "IQ4_XS"])
def test_figures_agree(llama_perplexity: Path, folder: Path, file_type: str) -> None:
    quantize(folder / "model.gguf", folder / "small.gguf", file_type=file_type, effort=EFFORT)
    printed = _run(llama_perplexity, folder, 1)
    card = _ours(folder)
    assert card.kl_divergence is not None
    assert card.perplexity is not None
    assert card.reference_perplexity is not None
    pairs = {
        "mean": (card.kl_divergence.mean, _theirs(printed, "Mean    KLD")),
        "median": (card.kl_divergence.median, _theirs(printed, "Median  KLD")),
        "p99": (card.kl_divergence.p99, _theirs(printed, "99.0%   KLD")),
        "same top": (100 * (card.same_top_1 or 0), _theirs(printed, "Same top p")),
        "perplexity": (card.perplexity.value, _theirs(printed, r"Mean PPL\(Q\)")),
        "base": (card.reference_perplexity.value, _theirs(printed, r"Mean PPL\(base\)")),
        "ratio": (card.perplexity_ratio, _theirs(printed, r"Mean PPL\(Q\)/PPL\(base\)")),
    }
    for name, (ours, theirs) in pairs.items():
        print(f"{file_type} {name}: {ours:.6g}, llama-perplexity {theirs:.6g}")
    for name, (ours, theirs) in pairs.items():
        assert ours == pytest.approx(theirs, rel=0.02), name


def test_tokens_are_theirs(llama_perplexity: Path, folder: Path) -> None:
    """The file of logits begins with what they counted."""
    import numpy as np

    length, vocabulary, count = np.fromfile(folder / "base.bin", "<i4", 3, offset=8)
    tokens = np.fromfile(folder / "base.bin", "<i4", length * count, offset=20)
    with Model(folder / "model.gguf") as model:
        text = (folder / "letters.txt").read_text(encoding="utf-8")
        assert model.tokenize(text, add_special=True)[: len(tokens)] == tokens.tolist()
        assert vocabulary == model.vocabulary_size
