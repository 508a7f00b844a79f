"""`python -m edgeslm` and the `edgeslm` command."""

import sys

try:
    from edgeslm.cli.main import main
except KeyboardInterrupt:  # on a slow board loading takes long enough for that
    print("edgeslm: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
