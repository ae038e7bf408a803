"""What is measured on a split, and the module that measures it: honest accuracy, the document's, loss and angles."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from arcface_pl.backbones import Backbone
from arcface_pl.heads import Head, ShardedHead

__all__ = ["ScoredModule", "Scores"]

# Sums over a test set must not depend on how many processes shared it; Apple's GPUs have no float64.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class Scores(nn.Module):
    """The metrics of one split, and the batch-by-batch work behind them.

    Args:
        split: "val" or "test": the prefix under which they are logged.
        num_classes: C.
    """

    def __init__(self, split: str, num_classes: int) -> None:
        super().__init__()
        self.split = split
        self.accuracy, self.margin_accuracy = (
            MulticlassAccuracy(num_classes, average="micro", validate_args=False) for _ in range(2)
        )
        self.loss, self.target_mean, self.nearest_other_mean = (
            MeanMetric(nan_strategy="disable").set_dtype(SUM_DTYPE) for _ in range(3)
        )

    def update_from(self, head: Head, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            head: The head in evaluation mode.
            embeddings: (B, D).
            labels: (B,) integers in [0, C).

        Returns:
            What callbacks draw, (B, ...) each: embeddings, labels, predictions, target_angle, predicted_angle and
            nearest_other_angle; the angles, to classes, in degrees.
        """
        cosine = head.cosine(embeddings)
        predictions = head(embeddings).argmax(1)
        target_angle = _degrees(cosine.gather(1, labels[:, None]).squeeze(1))
        nearest_other_angle = _degrees(cosine.scatter(1, labels[:, None], -torch.inf).amax(1))
        self.accuracy.update(predictions, labels)
        # The source document's way: the margin, and with it the label, is in these logits.
        self.margin_accuracy.update(head(embeddings, labels).argmax(1), labels)
        self.loss.update(head.loss(embeddings, labels, reduction="none").to(SUM_DTYPE))
        self.target_mean.update(target_angle)
        self.nearest_other_mean.update(nearest_other_angle)
        return {
            "embeddings": embeddings,
            "labels": labels,
            "predictions": predictions,
            "target_angle": target_angle,
            "predicted_angle": _degrees(cosine.gather(1, predictions[:, None]).squeeze(1)),
            "nearest_other_angle": nearest_other_angle,
        }

    def by_key(self) -> dict[str, Metric]:
        """Return the metrics by the key that each is logged under; angles of the validation split are ``angle/...``."""
        names: dict[str, Any] = {
            f"{self.split}/{name}": getattr(self, name) for name in ("loss", "accuracy", "margin_accuracy")
        }
        prefix = "angle" if self.split == "val" else f"{self.split}/angle"
        return names | {f"{prefix}/{name}": getattr(self, name) for name in ("target_mean", "nearest_other_mean")}


class ScoredModule(L.LightningModule):
    """The half of a module that measures: images to embeddings, and the batches that nothing is learnt from.

    Args:
        backbone: Images (B, C, H, W) to embeddings (B, D).
        head: Whose classes are scored.
        channels_last: Hold images and convolution weights channel by channel within a pixel.
    """

    def __init__(self, backbone: Backbone, head: Head, channels_last: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.channels_last = channels_last
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        self.scores = nn.ModuleDict({split: Scores(split, head.num_classes) for split in ("val", "test")})

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, C, H, W); returns embeddings (B, D), not normalised."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.backbone(images)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Score a batch of whatever the data module validates on."""
        return self._score(self._val_split, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Score a batch of the test set."""
        return self._score("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``labels``, ``predictions`` and the winning ``cosine`` of a batch, each (B,)."""
        images, labels = batch
        embeddings = self(images)
        predictions = self.head(embeddings).argmax(1)
        cosine = self.head.cosine(embeddings).gather(1, predictions[:, None]).squeeze(1)
        return {"labels": labels, "predictions": predictions, "cosine": cosine}

    def on_validation_start(self) -> None:
        """Gather a shared head's centers: processes may have different numbers of batches to score."""
        if isinstance(self.head, ShardedHead):
            self.head.gather_centers()

    def on_validation_end(self) -> None:
        """Let go of them."""
        if isinstance(self.head, ShardedHead):
            self.head.release_centers()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split."""
        self._log_scores(self._val_split)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test set."""
        self._log_scores("test")

    @property
    def _val_split(self) -> str:
        return getattr(getattr(self.trainer, "datamodule", None), "val_prefix", "val")

    def _score(self, split: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        scores: Any = self.scores[split]
        return scores.update_from(self.head, self(images), labels)

    def _log_scores(self, split: str) -> None:
        scores: Any = self.scores[split]
        for key, metric in scores.by_key().items():
            self.log(key, metric, prog_bar=key.endswith("/accuracy"))


def _degrees(cosine: Tensor) -> Tensor:
    return torch.rad2deg(torch.acos(cosine.to(SUM_DTYPE).clamp(-1.0, 1.0)))
