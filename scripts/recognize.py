"""Enrol, identify, compare: `python scripts/recognize.py --help` says how."""

import sys

from arcface_pl.cli import main

if __name__ == "__main__":
    main(["recognize", *sys.argv[1:]])
