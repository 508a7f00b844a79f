"""Importance matrices, as the packager uses them.

The file format is in `edgeslm.gguf.imatrix`: the room that runs llama.cpp reads it too.
"""

from __future__ import annotations

from edgeslm.gguf.imatrix import Importance, ImportanceMatrix, read_imatrix, write_imatrix

__all__ = ["Importance", "ImportanceMatrix", "read_imatrix", "write_imatrix"]
