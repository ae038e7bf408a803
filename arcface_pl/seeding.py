"""Seeds that are functions of where a run is, so that a resumed run draws what an uninterrupted one would have."""

import hashlib
import os

import torch


def derive_seed(*parts: int | str) -> int:
    """Mix integers and names, such as (seed, "augment", epoch, step, rank), into one seed.

    Args:
        parts: What the draw depends on, in a fixed order.

    Returns:
        An integer in [0, 2**63), a fixed function of ``parts`` on every machine and Python version.

    Example:
        >>> derive_seed(0, "dropout", 5, 0)
        270856781741643530
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def run_seed() -> int:
    """Return the seed of this run: what ``seed_everything`` was given, or 0 outside a seeded run."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seed_draws(device: torch.device, seed: int) -> None:
    """Seed what random operations on ``device`` draw from next (dropout), and the CPU's.

    ``torch.manual_seed`` would seed every kind of device, and for those not in use record a stack trace to do so later:
    a millisecond a call, and a list that grows with every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
