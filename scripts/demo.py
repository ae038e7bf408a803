"""Try a trained model on a page: `python scripts/demo.py --help` says how."""

import sys

from arcface_pl.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
