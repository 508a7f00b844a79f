"""Hugging Face checkpoints to GGUF."""

from edgeslm.packager.convert.convert import ConvertResult, FloatType, convert

__all__ = ["ConvertResult", "FloatType", "convert"]
