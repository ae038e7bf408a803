"""Train: `python scripts/fit.py --help` says how."""

import sys

from arcface_pl.cli import main

if __name__ == "__main__":
    main(["fit", *sys.argv[1:]])
