"""``python -m arcface_pl`` is ``arcface-pl``."""

from arcface_pl.cli import main

if __name__ == "__main__":
    main()
