"""From a checkpoint to a small GGUF file: convert, quantize, and the chain that joins them."""
