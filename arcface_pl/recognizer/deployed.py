"""A trained model as one network of plain operations, from pixels to cosines; this is what is exported."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.heads import AngularHead, LinearHead
from arcface_pl.preprocessing import in_order
from arcface_pl.recognizer.trained import TrainedModel


class Outputs(NamedTuple):
    """Outputs for B images.

    Attributes:
        embedding: (B, D) unit rows.
        cosine: (B, C) to the class centers, in [-1, 1].
        logits: (B, C); the predicted class is the argmax.
    """

    embedding: Tensor
    cosine: Tensor
    logits: Tensor


class DeployedModel(nn.Module):
    """Normalization, backbone and class centers as one network.

    Args:
        model: The trained model.
    """

    mean: Tensor
    std: Tensor
    class_centers: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(model.preprocessor, name))[:, None, None])
        self.channel_order = model.preprocessor.channel_order
        head = model.head
        self.sub_centers = head.sub_centers
        self.register_buffer("class_centers", F.normalize(head.weight.detach().double(), dim=1).float())
        scale = head.scale_value if isinstance(head, AngularHead) else 1.0
        self.scale = scale.item() if isinstance(scale, Tensor) else scale
        self.linear = None
        if isinstance(head, LinearHead):
            self.linear = nn.Linear(head.embedding_dim, head.num_classes, bias=head.bias is not None)
            self.linear.load_state_dict(head.state_dict())
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the `Outputs` of pixels (B, C, S, S) uint8, of color images in RGB."""
        embedding = self.backbone(in_order((pixels.float() / 255 - self.mean) / self.std, self.channel_order))
        unit = F.normalize(embedding, dim=1)
        cosine = (unit @ self.class_centers.T).clamp(-1, 1)
        if self.sub_centers > 1:
            cosine = cosine.unflatten(1, (-1, self.sub_centers)).amax(2)
        return unit, cosine, self.scale * cosine if self.linear is None else self.linear(embedding)
