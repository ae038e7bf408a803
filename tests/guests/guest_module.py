"""A module of one's own: a subclass with a hyperparameter and a loss term."""

from collections.abc import Sequence

from torch import Tensor, nn

from arcface_pl import ArcFaceModule
from arcface_pl.heads import Head


class ShortEmbeddings(ArcFaceModule):
    """Also penalizes the squared length of embeddings.

    Args:
        backbone: Maps images to embeddings.
        head: Holds the class centers.
        penalty: Weight of the mean squared length, at least 0.
    """

    def __init__(self, backbone: nn.Module, head: Head, penalty: float = 1e-4) -> None:
        super().__init__(backbone, head)
        self.save_hyperparameters("penalty")
        self.penalty = penalty

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        embeddings = self(images)
        loss = self.head.loss(embeddings, labels) + self.penalty * embeddings.pow(2).sum(1).mean()
        self.log("train/loss", loss)
        return loss
