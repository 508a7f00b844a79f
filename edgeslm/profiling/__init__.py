"""What a model costs here, measured: memory, speed and energy."""
