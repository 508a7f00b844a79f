"""Rebuild a Llama GGUF file as a Hugging Face checkpoint directory, in float32.

    python scripts/make_checkpoint.py model.gguf checkpoint/

For trying out and testing conversion where no full-precision checkpoint is at hand: the
quantized weights are decoded, nothing is invented. Needs torch, transformers and accelerate.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def make_checkpoint(source: Path, directory: Path) -> None:
    """Write the weights and the tokenizer of the GGUF file `source` to `directory`."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    decoded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    # transformers refuses to save a model that came from GGUF; a plain one of the same
    # configuration, with the same weights, it saves.
    settings = decoded.config.to_dict()
    settings.pop("quantization_config", None)
    settings["dtype"] = "float32"
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(decoded.state_dict())
    model.float().save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if _pre_tokenizer(source) == "smollm":
        # transformers takes GPT-2's splitting for every GGUF file; this one splits digits too.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
    tokenizer.save_pretrained(directory)


def _pre_tokenizer(source: Path) -> str | None:
    """llama.cpp's name for how the file's tokenizer splits text."""
    from gguf import GGUFReader

    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path, help="a Llama model, any quantization")
    parser.add_argument("directory", type=Path, help="where the checkpoint is written")
    options = parser.parse_args()
    make_checkpoint(options.gguf, options.directory)


if __name__ == "__main__":
    main()
