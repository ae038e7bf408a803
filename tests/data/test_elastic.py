import math

import pytest
import torch
import torch.nn.functional as F

from arcface_pl.data.augment import Augmentation
from arcface_pl.data.elastic import KNOTS, ElasticAugmentation, smooth_field


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_pixel_moves_with_the_given_deviation_and_smoothly() -> None:
    draws = ElasticAugmentation(elastic=0.7).draw(4000, 28, generator())
    moves = draws[:, 6:].double().view(-1, KNOTS, KNOTS) * 14  # in pixels
    field = smooth_field(moves, 28, 28)
    deviation = field.std(dim=0)
    # 8,000 samples a pixel: five standard errors of a deviation
    assert (deviation / 0.7 - 1).abs().max() < 5 / math.sqrt(2 * 8000)
    neighbours = torch.cat(((field[:, 1:] - field[:, :-1]).flatten(), (field[:, :, 1:] - field[:, :, :-1]).flatten()))
    assert neighbours.std() < 0.3 * 0.7  # independent pixels would differ by 1.41 deviations


def test_x_and_y_move_independently() -> None:
    draws = ElasticAugmentation(elastic=1.0).draw(20_000, 28, generator())[:, 6:].view(-1, 2, KNOTS**2)
    assert torch.corrcoef(draws[:, :, 7].T)[0, 1].abs() < 5 / math.sqrt(20_000)


def test_a_move_of_all_knots_in_one_direction_moves_the_picture_there() -> None:
    images = torch.rand(1, 1, 28, 28, generator=generator())
    draws = torch.zeros(1, 6 + 2 * KNOTS**2)
    draws[:, :6] = torch.eye(2, 3).flatten()
    weights = smooth_field(torch.ones(KNOTS, KNOTS), 28, 28)
    # Knots that all move by 1 move a pixel by the sum of their weights there: this one by two pixels to the right
    draws[:, 6 : 6 + KNOTS**2] = 2 * 2 / 28 / weights[14, 14]
    moved = ElasticAugmentation(elastic=1.0).apply(images, draws)
    assert moved[0, 0, 14, 14] == pytest.approx(images[0, 0, 14, 16].item(), abs=1e-4)


def test_it_is_the_plain_sampling_of_the_moved_grid() -> None:
    augmentation = ElasticAugmentation(rotation=20, shift=2, zoom=0.1, elastic=1.0)
    images = torch.rand(3, 2, 20, 20, generator=generator(1))
    draws = augmentation.draw(3, 20, generator(2))
    grid = F.affine_grid(draws[:, :6].view(3, 2, 3), [3, 2, 20, 20], align_corners=False)
    knots = (torch.arange(KNOTS) + 0.5) * 20 / KNOTS
    for image in range(3):
        moves = draws[image, 6:].view(2, KNOTS, KNOTS)
        for row, column in ((0, 0), (7, 12), (19, 3)):
            away = (row + 0.5 - knots)[:, None].square() + (column + 0.5 - knots).square()
            weights = torch.exp(-0.5 * away / (0.75 * 20 / KNOTS) ** 2)
            grid[image, row, column] += (moves * weights / weights.square().sum().sqrt()).sum(dim=(1, 2))
    expected = F.grid_sample(images, grid, align_corners=False)
    result = augmentation.apply(images, draws)
    for row, column in ((0, 0), (7, 12), (19, 3)):
        torch.testing.assert_close(result[:, :, row, column], expected[:, :, row, column])


def test_without_bending_it_is_the_plain_augmentation() -> None:
    images = torch.rand(4, 1, 28, 28, generator=generator())
    plain, bent = Augmentation(10, 2, 0.1), ElasticAugmentation(10, 2, 0.1, elastic=0.0)
    expected = plain.apply(images, plain.draw(4, 28, generator(3)))
    torch.testing.assert_close(bent.apply(images, bent.draw(4, 28, generator(3))), expected)


@pytest.mark.parametrize("elastic", [-0.1, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(elastic: float) -> None:
    with pytest.raises(ValueError, match=f"elastic.*got {elastic}"):
        ElasticAugmentation(elastic=elastic)
