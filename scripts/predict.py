"""Say the class of pictures: `python scripts/predict.py --help` says how."""

import sys

from arcface_pl.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
