"""A trained model as one self-contained file, checked against the model after it is written."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.errors import UserError
from arcface_pl.heads import LinearHead
from arcface_pl.recognizer.trained import TrainedModel

__all__ = ["FORMATS", "TOLERANCE", "DeployedModel", "ExportError", "Outputs", "Parity", "export"]

FORMATS = ("onnx", "safetensors", "torch")
TOLERANCE = 1e-5
"""How far a cosine that the file gives may be from the model's."""
OPSET = 18


class ExportError(UserError):
    """A model that cannot be exported, or a file that does not give what the model gives."""


class Outputs(NamedTuple):
    """What a deployed model gives for B images.

    Attributes:
        embedding: (B, D) rows of length one.
        cosine: (B, C) to the class centers, in [-1, 1].
        logits: (B, C); the class is the largest one's.
    """

    embedding: Tensor
    cosine: Tensor
    logits: Tensor


class Parity(NamedTuple):
    """How a file compares with the model it was made from.

    Attributes:
        num_images: Images that both were given.
        cosine: Largest difference of a cosine.
        embedding: Largest difference of an embedding's component.
        same_class: Images that both put into one class.
    """

    num_images: int
    cosine: float
    embedding: float
    same_class: int


class DeployedModel(nn.Module):
    r"""Pixels to embeddings, cosines and logits: normalisation, backbone and class centers in one network.

    Args:
        model: The trained model.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.sub_centers = model.head.sub_centers
        self.register_buffer("mean", torch.tensor(model.preprocessor.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(model.preprocessor.std)[:, None, None])
        weight = model.head.weight.detach()
        self.register_buffer("class_centers", F.normalize(weight.double(), dim=1).float())
        self.linear: nn.Linear | None = None
        if isinstance(model.head, LinearHead):
            self.linear = nn.Linear(*weight.shape[::-1], bias=model.head.bias is not None)
            self.linear.load_state_dict(model.head.state_dict())
        else:
            self.scale = float(model.head.scale_value)  # type: ignore[arg-type]  # every other head is angular

    def forward(self, pixels: Tensor) -> Outputs:
        """Compute all outputs.

        Args:
            pixels: (B, C, S, S) uint8, values from 0 to 255.
        """
        embedding = self.backbone((pixels.float() / 255 - self.mean) / self.std)
        unit = F.normalize(embedding, dim=1)
        cosine = (unit @ self.class_centers.T).clamp(-1, 1)
        if self.sub_centers > 1:
            cosine = cosine.unflatten(1, (-1, self.sub_centers)).amax(2)
        return Outputs(unit, cosine, self.scale * cosine if self.linear is None else self.linear(embedding))
