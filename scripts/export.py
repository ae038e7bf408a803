"""Write a model as one file: `python scripts/export.py --help` says how."""

import sys

from arcface_pl.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
