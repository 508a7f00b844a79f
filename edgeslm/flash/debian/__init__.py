"""A Debian for boards, made from nothing but its packages: the base of an image."""
