import pytest
import torch

from arcface_pl.seeding import derive_seed, seed_draws


def test_derived_seeds_are_fixed_and_differ_with_every_part() -> None:
    assert derive_seed(0, "dropout", 5, 0) == 270856781741643530
    seeds = {derive_seed(a, b, c) for a in range(20) for b in ("x", "y") for c in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_seed_draws_repeats_the_draws() -> None:
    seed_draws(torch.device("cpu"), 7)
    first = torch.rand(4)
    torch.rand(9)
    seed_draws(torch.device("cpu"), 7)
    assert torch.equal(torch.rand(4), first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seed_draws_seeds_the_device_that_is_named() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    seed_draws(device, 7)
    expected = torch.rand(4, device=device, generator=torch.Generator(device).manual_seed(7))
    assert torch.equal(torch.rand(4, device=device), expected)
