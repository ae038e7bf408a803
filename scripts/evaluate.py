"""Evaluate a checkpoint: `python scripts/evaluate.py --help` says how."""

import sys

from arcface_pl.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
