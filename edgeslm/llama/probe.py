"""The child process of `guard`: loads a model, reads a text, computes one token.

    python -m edgeslm.llama.probe MODEL.gguf [--repack]

Exit code 0 if all went well; 1 with one line on stderr if llama.cpp refused the file. What
llama.cpp cannot refuse ends this process and not the one that asked.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgeslm.errors import EdgeslmError
from edgeslm.llama.context import Context, ContextOptions
from edgeslm.llama.model import Model, ModelOptions

_TEXT = "The 1st naïve café—日本語 🙂\n\tdef f(x): return x\n"
_CONTEXT_LENGTH = 256
_TOKENS = 16


def probe(path: Path, *, repack: bool = False) -> None:
    """Do what a first use would do.

    Args:
        path: The model.
        repack: With weights in the order that the fastest kernels take, which is a copy of them.

    Raises:
        EdgeslmError: llama.cpp refused the file.
    """
    with Model(path, ModelOptions(trusted=True, repack=repack)) as model:
        tokens = model.tokenize(_TEXT, add_special=True, parse_special=True)[:_TOKENS] or [0]
        for token in tokens:
            model.token_bytes(token)
        options = ContextOptions(length=_CONTEXT_LENGTH, batch=_TOKENS, ubatch=_TOKENS)
        with Context(model, options) as context:
            context.prefill(tokens)
            if model.can_generate:
                context.logits()


def _main() -> int:
    try:
        probe(Path(sys.argv[1]), repack="--repack" in sys.argv[2:])
    except EdgeslmError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
