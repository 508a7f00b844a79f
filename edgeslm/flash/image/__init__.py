"""Disk images of Debian systems, filled without mounting them and without being root."""
