"""lm-evaluation-harness, unchanged, gets the same scores from the server as `edgeslm evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from processes import served

from edgeslm.llama.model import Model
from edgeslm.packager.evaluate.tasks import likelihoods, read_tasks, score

_QUESTIONS = Path(__file__).parent / "fixtures" / "questions.jsonl"
_PYTHON = os.environ.get("EDGESLM_LM_EVAL_PYTHON", "")
_MODELS = {
    "without BOS": os.environ.get("EDGESLM_SMOLLM2_GGUF", ""),
    "with BOS": os.environ.get("EDGESLM_GEMMA3_GGUF", ""),
}
_GEMMA3_TOKENIZER = os.environ.get("EDGESLM_GEMMA3_TOKENIZER", "")
"""A folder with its tokenizer.json: transformers does not get Gemma's from a GGUF file."""
_TASK = """\
task: questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
_TOKENIZER = (
    "import sys; from transformers import AutoTokenizer; folder, file, out = sys.argv[1:]; "
    "AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(out)"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _PYTHON, reason="EDGESLM_LM_EVAL_PYTHON names no Python with lm-eval"),
]


@pytest.mark.parametrize("form", ["ids", "text"])
@pytest.mark.parametrize("kind", _MODELS)
def test_scores_are_those_of_evaluate(kind: str, form: str, tmp_path: Path) -> None:
    path = Path(_MODELS[kind])
    if not path.is_file() or (kind == "with BOS" and not _GEMMA3_TOKENIZER):
        pytest.skip("EDGESLM_SMOLLM2_GGUF, or EDGESLM_GEMMA3_GGUF and EDGESLM_GEMMA3_TOKENIZER")
    tokenizer = Path(_GEMMA3_TOKENIZER) if kind == "with BOS" else tmp_path / "tokenizer"
    if kind == "without BOS":
        _python("-c", _TOKENIZER, str(path.parent), path.name, str(tokenizer))
    with Model(path) as model:
        tasks = read_tasks(_QUESTIONS)
        plain, normalised = score(model, tasks, 1)
        expected = likelihoods(model, tasks, 1)
        begins = model.adds_bos
    assert begins == (kind == "with BOS")
    with served(path, options=("--name", "m", "--slots", "1", "--context", "512")) as server:
        options = [
            f"model=m,base_url={server.address}/v1/completions,tokenizer_backend=huggingface",
            f"tokenizer={tokenizer},tokenized_requests={form == 'ids'}",
            f"add_bos_token={begins and form == 'ids'}",
        ]
        results, samples = _evaluated(tmp_path, ",".join(options))
    differences = [
        abs(ours - theirs)
        for one, other in zip(expected, samples, strict=True)
        for ours, theirs in zip(one, other, strict=True)
    ]
    print(f"\n{kind}, {form}: acc {plain.value:.4f}, acc_norm {normalised.value:.4f}, ", end="")
    print(f"{len(differences)} choices, largest difference {max(differences):.2e} nats, ", end="")
    print(f"median {np.median(differences):.2e}")
    assert max(differences) < 0.05
    assert results["acc,none"] == pytest.approx(plain.value, abs=1e-9)
    assert results["acc_norm,none"] == pytest.approx(normalised.value, abs=1e-9)


def _evaluated(folder: Path, options: str) -> tuple[dict[str, float], list[list[float]]]:
    """What lm-eval found: scores, and the log-likelihood of each choice of each question."""
    (folder / "questions.yaml").write_text(_TASK.format(questions=_QUESTIONS))
    out = folder / "out"
    _python(
        *("-m", "lm_eval", "--model", "local-completions", "--model_args", options),
        *("--tasks", "questions", "--include_path", str(folder)),
        *("--output_path", str(out), "--log_samples"),
    )
    (results,) = out.rglob("results_*.json")
    (lines,) = out.rglob("samples_*.jsonl")
    samples = sorted(map(json.loads, lines.read_text().splitlines()), key=lambda s: s["doc_id"])
    found = [[float(answer[0][0]) for answer in sample["resps"]] for sample in samples]
    return json.loads(results.read_text())["results"]["questions"], found


def _python(*arguments: str) -> None:
    """Run that Python, without the network and without our packages."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [_PYTHON, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
