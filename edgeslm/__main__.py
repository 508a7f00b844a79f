"""`python -m edgeslm` and the `edgeslm` command."""

from edgeslm.cli.main import main

if __name__ == "__main__":
    main()
