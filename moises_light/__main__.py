"""`python -m moises_light`."""

import sys

from moises_light.cli import main

if __name__ == "__main__":
    sys.exit(main())
