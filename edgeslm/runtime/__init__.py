"""Runs a model: prompt in, streamed answer out, with the figures of what it took."""
