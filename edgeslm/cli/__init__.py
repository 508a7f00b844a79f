"""The command line: each command parses, calls a library function, and prints."""
