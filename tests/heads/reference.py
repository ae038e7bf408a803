"""The papers' losses written out, dense and in float64: cosines, arccosines, one matrix of logits, a cross-entropy."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines(embeddings: Tensor, weight: Tensor, sub_centers: int = 1) -> Tensor:
    cosine = F.normalize(embeddings.double()) @ F.normalize(weight.double()).T
    return cosine.view(len(embeddings), -1, sub_centers).amax(dim=2)


def target_theta(cosine: Tensor, labels: Tensor) -> Tensor:
    return cosine.gather(1, labels[:, None]).squeeze(1).acos()


def softmax_loss(cosine: Tensor, labels: Tensor, psi: Tensor, scale: float, smoothing: float = 0.0) -> Tensor:
    logits = scale * cosine.scatter(1, labels[:, None], psi[:, None])
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def adacos(cosine: Tensor, labels: Tensor, scale: float) -> float:
    """The next scale of AdaCos, equations 15 and 16."""
    other = (scale * cosine).exp().scatter(1, labels[:, None], 0)
    theta = target_theta(cosine, labels).median().item()
    return math.log(other.sum().item() / len(labels)) / math.cos(min(math.pi / 4, theta))


def fall_on(angle: Tensor) -> Tensor:
    """cos on [0, pi], then down at every half turn, one branch after another."""
    value = angle.cos()
    for k in range(1, 12):
        value = torch.where(angle > k * math.pi, (-1) ** k * angle.cos() - 2 * k, value)
    return value


def arcface(theta: Tensor, margin: float | Tensor) -> Tensor:
    return fall_on(theta + margin)


def adaface(theta: Tensor, norms: Tensor, mean: float, std: float, margin: float, h: float) -> Tensor:
    """Equations of the paper, with its code's bounds on the norm and its epsilon."""
    quality = (h * (norms.clip(1e-3, 100) - mean) / (std + 1e-3)).clip(-1, 1)
    g_angle, g_add = -margin * quality, margin * quality + margin
    return fall_on((theta + g_angle).clip(min=0)) - g_add


def magface_margin(norms: Tensor, l_a: float, u_a: float, l_m: float, u_m: float) -> Tensor:
    return (u_m - l_m) / (u_a - l_a) * (norms.clip(l_a, u_a) - l_a) + l_m


def magface_regulariser(norms: Tensor, l_a: float, u_a: float) -> Tensor:
    held = norms.clip(l_a, u_a)
    return 1 / held + held / u_a**2


def curricularface(cosine: Tensor, labels: Tensor, margin: float, t: float) -> tuple[Tensor, Tensor]:
    """The re-weighted cosines and the target psi, a class at a time."""
    psi = arcface(target_theta(cosine, labels), margin)
    columns = [torch.where(column > psi, column * (t + column), column) for column in cosine.unbind(dim=1)]
    return torch.stack(columns, dim=1), psi
