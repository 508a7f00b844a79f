"""Hugging Face checkpoints to GGUF."""

from edgeslm.packager.convert.convert import ConvertResult, convert

__all__ = ["ConvertResult", "convert"]
