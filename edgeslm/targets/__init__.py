"""Boards as data: what is known about each, and which one this machine is."""
