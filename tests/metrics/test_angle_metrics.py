"""Angles, against constructed ones and numpy in float64."""

import math

import numpy as np
import pytest
import torch

from arcface_pl.metrics.functional import center_angles, target_angles


def brute_force(embeddings, labels, centers, sub_centers):
    x, w = (m.double().numpy() for m in (embeddings, centers))
    x, w = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (x, w))
    theta = np.arccos(np.clip(x @ w.T, -1, 1)).reshape(len(x), -1, sub_centers).min(2)
    own = theta[np.arange(len(x)), labels.numpy()]
    theta[np.arange(len(x)), labels.numpy()] = np.inf
    return own, theta.min(1), theta.argmin(1)


@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_numpy(sub_centers, dtype):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(200, 8, generator=generator).to(dtype)
    centers = torch.randn(6 * sub_centers, 8, generator=generator).to(dtype)
    labels = torch.randint(6, (200,), generator=generator, dtype=torch.int32)
    angles = target_angles(embeddings, labels, centers, sub_centers=sub_centers)
    own, other, nearest = brute_force(embeddings, labels, centers, sub_centers)
    assert np.allclose(angles.target, own, rtol=0, atol=1e-7)
    assert np.allclose(angles.nearest_other, other, rtol=0, atol=1e-7)
    assert np.array_equal(angles.nearest_class, nearest)
    assert torch.equal(angles.gap, angles.nearest_other - angles.target)


@pytest.mark.parametrize("theta", [0.0, 1e-12, 1e-6, 1e-3, 0.5, 3.0, math.pi - 1e-6, math.pi])
def test_known_angles_to_full_precision(theta):
    embeddings = torch.tensor([[5 * math.cos(theta), 5 * math.sin(theta)]], dtype=torch.float64)
    centers = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    angles = target_angles(embeddings, torch.tensor([0]), centers)
    assert float(angles.target) == pytest.approx(theta, rel=1e-12, abs=1e-15)


def test_many_classes_are_taken_in_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    embeddings, centers = torch.randn(50, 4, generator=generator), torch.randn(30, 4, generator=generator)
    labels = torch.randint(30, (50,), generator=generator)
    whole = target_angles(embeddings, labels, centers)
    monkeypatch.setattr("arcface_pl.metrics.functional.angles._MAX_BLOCK", 100)
    for a, b in zip(whole, target_angles(embeddings, labels, centers), strict=True):
        assert torch.allclose(a, b)


def test_a_row_of_zeros_is_at_a_right_angle():
    angles = target_angles(torch.zeros(1, 3), torch.tensor([1]), torch.eye(3))
    assert float(angles.target) == pytest.approx(math.pi / 2)
    assert float(angles.gap) == 0


def test_center_angles():
    generator = torch.Generator().manual_seed(2)
    centers = torch.randn(12, 5, generator=generator)
    theta = center_angles(centers)
    unit = centers.double() / centers.double().norm(dim=1, keepdim=True)
    expected = np.arccos(np.clip((unit @ unit.T).numpy(), -1, 1))
    np.fill_diagonal(expected, 0)
    assert np.allclose(theta, expected, rtol=0, atol=1e-7)
    assert torch.equal(theta, theta.T)
    assert not theta.diagonal().any()
    assert center_angles(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))[0, 1] == math.pi


EYE = torch.eye(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 1, 2, 4])}, r"labels: got 0 to 4; expected integers in \[0, 4\)"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, r"labels: got -1 to 2; expected integers in \[0, 4\)"),
        ({"labels": torch.tensor([0, 1])}, r"labels: got \(2,\)"),
        ({"centers": torch.ones(1, 4)}, "centers: got 1 class; expected centers of at least two classes"),
        ({"centers": torch.ones(4, 3)}, r"centers: got \(4, 3\); expected shape \(N, 4\)"),
        ({"centers": torch.full((4, 4), torch.nan)}, "centers: got 16 NaN or infinite"),
        ({"embeddings": torch.full((4, 4), torch.inf)}, "embeddings: got 16 NaN or infinite"),
        ({"embeddings": torch.ones(4)}, r"embeddings: got \(4,\)"),
        ({"sub_centers": 3}, "sub_centers: got 3; expected a divisor of the number of centers, 4"),
        ({"sub_centers": 0}, "sub_centers: got 0"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        target_angles(**{"embeddings": EYE, "labels": torch.arange(4), "centers": EYE, **change})
