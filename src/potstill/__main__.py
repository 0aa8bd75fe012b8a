"""`python -m potstill` is the command `potstill`."""

import sys

from potstill.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
