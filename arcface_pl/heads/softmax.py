"""Two baselines without a margin."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.errors import expected
from arcface_pl.functional import linear_softmax_loss
from arcface_pl.functional.checks import check_batch, check_embeddings
from arcface_pl.functional.loss import Reduction, reduce
from arcface_pl.functional.precision import compute_dtype, full_precision
from arcface_pl.functional.products import Precision
from arcface_pl.functional.scoring import LogitsOf
from arcface_pl.heads.angular import AngularHead
from arcface_pl.heads.base import Head
from arcface_pl.heads.centers import CenterInit
from arcface_pl.heads.class_weights import ClassWeights


class NormalizedSoftmaxHead(AngularHead):
    r"""Softmax over scaled cosines, without a margin: ArcFace with m = 0.

    $$L_i = -\log \frac{e^{s \cos \theta_{y_i}}}{\sum_j e^{s \cos \theta_j}}$$

    The options are those of `AngularHead`.

    Reference:
        Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification (ACM Multimedia 2017).
    """

    def psi(self, cosine: Tensor, sine: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the cosine as it is."""
        return cosine


class LinearHead(Head):
    r"""Plain softmax on a linear layer: no normalization, no scale, no margin.

    $$L_i = -\log \frac{e^{x_i \cdot w_{y_i} + b_{y_i}}}{\sum_j e^{x_i \cdot w_j + b_j}}$$

    ``cosine`` leaves the bias out.

    Args:
        embedding_dim: D, the width of the embeddings, at least 1.
        num_classes: C, at least 1.
        use_bias: Whether each class has a bias b.
        label_smoothing: Fraction of the target that is spread evenly over all classes, in [0, 1).
        class_weights: Factor of each sample's loss by its class: "equal", "balanced", or a list, see `Head`.
        non_target_precision: "float32", "tf32" or "bfloat16", see `Head`.
        center_init: "xavier", "normal" or "unit", see `Head`.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        use_bias: bool = True,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = "equal",
        non_target_precision: Precision = "float32",
        center_init: CenterInit = "xavier",
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            non_target_precision=non_target_precision,
            center_init=center_init,
        )
        if not isinstance(use_bias, bool):
            raise ValueError(expected("use_bias", use_bias, "true or false"))
        self.use_bias = use_bias
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_classes)) if use_bias else None)

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute x . w + b; labels change nothing but are checked.

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) integers in [0, C).

        Returns:
            (B, C), float32, or float64 where the embeddings or the centers are.

        Raises:
            ValueError: A wrong shape or dtype, or a label outside [0, C).
        """
        check_embeddings(embeddings, self.weight)
        if labels is not None:
            check_batch(embeddings, labels, self.num_classes, values=self.check_labels)
        dtype = compute_dtype(embeddings, self.weight)
        bias = None if self.bias is None else self.bias.to(dtype)
        with full_precision(embeddings.device):
            return F.linear(embeddings.to(dtype), self.weight.to(dtype), bias)

    def chunk_logits(self, embeddings: Tensor) -> LogitsOf:
        """Return what multiplies embeddings and a chunk's weights, see `Head.chunk_logits`."""
        dtype = compute_dtype(embeddings, self.weight)
        embeddings = embeddings.to(dtype)

        def logits_of(rows: slice, _: Tensor) -> Tensor:
            bias = None if self.bias is None else self.bias[rows].to(dtype)
            return F.linear(embeddings, self.weight[rows].to(dtype), bias)

        return logits_of

    def loss(self, embeddings: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Compute the cross-entropy, see `Head.loss`."""
        losses = linear_softmax_loss(
            embeddings,
            self.weight,
            labels,
            self.bias,
            label_smoothing=self.label_smoothing,
            reduction=reduction if self.loss_weights is None else "none",
            check_labels=self.check_labels,
            precision=self.non_target_precision,
        )
        return losses if self.loss_weights is None else reduce(self.weigh(losses, labels.long()), reduction)
