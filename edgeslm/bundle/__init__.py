"""What passes between the machine that packs and the device that runs."""
