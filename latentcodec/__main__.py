"""`python -m latentcodec`: the same as the `latentcodec` command."""

import sys

from latentcodec.cli import main

if __name__ == "__main__":
    sys.exit(main())
