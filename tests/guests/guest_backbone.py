"""A network of one's own: any nn.Module whose output is (B, D)."""

from torch import Tensor, nn


class TwoLayers(nn.Module):
    """Images of 28 x 28 to 24 dimensions; knows nothing of arcface_pl.

    Args:
        hidden: Width of the hidden layer.
    """

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 24))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
