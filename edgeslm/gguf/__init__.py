"""GGUF files: their types, what is in them, whether they can be trusted, and writing them."""
