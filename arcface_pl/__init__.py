"""Image embeddings with angular-margin losses (ArcFace and its family) in PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from arcface_pl.backbones import (
        FastCNN,
        IResNet,
        MobileFaceNet,
        SimpleCNN,
        SmallResNet,
        TimmBackbone,
        TorchvisionBackbone,
    )
    from arcface_pl.data import ImageFolderDataModule, MNISTDataModule, OmniglotDataModule, PairsDataModule
    from arcface_pl.heads import (
        AdaFaceHead,
        ArcFaceHead,
        CombinedMarginHead,
        CosFaceHead,
        CurricularFaceHead,
        ElasticFaceHead,
        LinearHead,
        MagFaceHead,
        NormalizedSoftmaxHead,
        ShardedHead,
        SphereFaceHead,
        deferred_centers,
        shard_head,
    )
    from arcface_pl.recognizer import Recognizer
    from arcface_pl.training.extra_losses import ExtraLoss
    from arcface_pl.training.module import ArcFaceModule

__all__ = [
    "AdaFaceHead",
    "ArcFaceHead",
    "ArcFaceModule",
    "CombinedMarginHead",
    "CosFaceHead",
    "CurricularFaceHead",
    "ElasticFaceHead",
    "ExtraLoss",
    "FastCNN",
    "IResNet",
    "ImageFolderDataModule",
    "LinearHead",
    "MNISTDataModule",
    "MagFaceHead",
    "MobileFaceNet",
    "NormalizedSoftmaxHead",
    "OmniglotDataModule",
    "PairsDataModule",
    "Recognizer",
    "ShardedHead",
    "SimpleCNN",
    "SmallResNet",
    "SphereFaceHead",
    "TimmBackbone",
    "TorchvisionBackbone",
    "deferred_centers",
    "shard_head",
]

# Imported when first asked for: torch and lightning take seconds, which `--help` and a wrong flag need not wait for.
_ROOMS = {
    "SimpleCNN": "backbones",
    "FastCNN": "backbones",
    "SmallResNet": "backbones",
    "IResNet": "backbones",
    "MobileFaceNet": "backbones",
    "TimmBackbone": "backbones",
    "TorchvisionBackbone": "backbones",
    "ImageFolderDataModule": "data",
    "MNISTDataModule": "data",
    "OmniglotDataModule": "data",
    "PairsDataModule": "data",
    "ArcFaceModule": "training.module",
    "ExtraLoss": "training.extra_losses",
    "Recognizer": "recognizer",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'arcface_pl' has no attribute {name!r}")
        return getattr(import_module(f"arcface_pl.{_ROOMS.get(name, 'heads')}"), name)
