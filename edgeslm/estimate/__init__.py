"""What should happen before anything runs: memory, speed and energy from a header and a target."""
