"""Embeddings that were computed elsewhere, in place of pictures: checked against the model that compares them."""

import re

import torch
from torch import Tensor

from arcface_pl.backbones.base import Backbone
from arcface_pl.errors import UserError, expected
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer.answers import Embeddings
from arcface_pl.recognizer.embedding_files import check_rows
from arcface_pl.recognizer.onnx_model import NoClasses
from arcface_pl.recognizer.trained import TrainedModel

_FINGERPRINT = re.compile("([0-9a-f]{12})[0-9a-f]{52}")


class NoNetwork(Backbone):
    """The backbone of a model that is known by its embeddings only.

    Args:
        embedding_dim: D, the width of the embeddings.
        made_by: What made them.
    """

    def __init__(self, embedding_dim: int, made_by: str) -> None:
        super().__init__()
        self.in_channels = self.image_size = 1
        self.embedding_dim, self.made_by = embedding_dim, made_by

    def forward(self, images: Tensor) -> Tensor:
        """Refuse: only embeddings can be compared."""
        raise UserError(expected("images", "pictures", f"embeddings made by {self.made_by}: there is no network"))


def embedding_space(embedding_dim: int, made_by: str) -> TrainedModel:
    """Return a model without network and classes; its fingerprint is ``made_by``."""
    model = TrainedModel(
        NoNetwork(embedding_dim, made_by), NoClasses(embedding_dim), Preprocessor(1, 1, (0.0,), (1.0,)), [], made_by
    )
    model.fingerprint = made_by
    return model


def checked_rows(embeddings: Embeddings, model: TrainedModel) -> Tensor:
    """Return embeddings as rows (N, D) float32 on the device of a model's head; a single one is a row, too.

    Raises:
        UserError: If they have another width, dtype or shape, were made by another model, or have no direction.
    """
    rows, width = torch.as_tensor(embeddings.rows), model.head.embedding_dim
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != width or not rows.is_floating_point():
        got = f"{str(rows.dtype).removeprefix('torch.')} {tuple(rows.shape)}"
        raise UserError(expected("embeddings", got, f"floating point (N, {width}), the width of the model's"))
    if embeddings.made_by not in (None, model.fingerprint):
        remedy = "Embeddings of two models cannot be compared"
        got, wanted = (_FINGERPRINT.sub(r"\1...", each) for each in (embeddings.made_by, model.fingerprint))
        raise UserError(expected("embeddings: made_by", got, f"{wanted}, as the model", remedy))
    rows = rows.detach().to(model.head.weight.device, torch.float32)
    check_rows("embeddings", rows)
    return rows
