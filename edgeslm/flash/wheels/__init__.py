"""The runtime of a device as Python wheels: built, collected, checked, and unpacked there."""
