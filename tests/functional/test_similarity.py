"""Cosines: exact, in bounds, for embeddings of any length."""

import pytest
import torch
import torch.nn.functional as F
from cases import batch

from arcface_pl.functional import (
    cosine_similarity_matrix,
)


def test_cosine_similarity_matrix_is_the_cosine_within_its_bounds() -> None:
    embeddings, weight, _ = batch(64, 50, dtype=torch.float32)
    expected = F.cosine_similarity(embeddings.double()[:, None], weight.double()[None], dim=2)
    cosine = cosine_similarity_matrix(embeddings, weight)
    assert cosine.dtype == torch.float32
    torch.testing.assert_close(cosine.double(), expected, rtol=0, atol=2e-7)
    aligned = cosine_similarity_matrix(weight, torch.cat([weight * 7, -weight / 7]))
    assert aligned.max() <= 1
    assert aligned.min() >= -1


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 3e38])
def test_cosine_similarity_matrix_knows_the_direction_of_any_embedding(size: float) -> None:
    weight = torch.eye(2)
    cosine = cosine_similarity_matrix(torch.tensor([[size, 0.0], [size / 2, -size / 2]]), weight)
    torch.testing.assert_close(cosine, torch.tensor([[1.0, 0.0], [0.5**0.5, -(0.5**0.5)]]))


def test_cosine_similarity_matrix_stays_in_float32_under_autocast() -> None:
    embeddings, weight, _ = batch(dtype=torch.float32)
    expected = cosine_similarity_matrix(embeddings, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cosine_similarity_matrix(embeddings, weight), expected)
    assert cosine_similarity_matrix(embeddings.bfloat16(), weight).dtype == torch.float32


def test_cosine_similarity_matrix_has_a_shape_on_the_meta_device() -> None:
    assert cosine_similarity_matrix(torch.zeros(3, 4, device="meta"), torch.zeros(5, 4, device="meta")).shape == (3, 5)
