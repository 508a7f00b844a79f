"""Carry a bundle, and the runtime that it needs, to where it will run."""
