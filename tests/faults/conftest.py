"""Random faults that can be repeated: the seed is printed, and pytest shows it where a test fails."""

import os
import random

import pytest


@pytest.fixture
def rng() -> random.Random:
    """Draws other faults in each run, or those of $ARCFACE_PL_FAULT_SEED."""
    seed = int(os.environ.get("ARCFACE_PL_FAULT_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"\nARCFACE_PL_FAULT_SEED={seed}")
    return random.Random(seed)
