"""Networks that map images (B, C, H, W) to embeddings (B, D)."""

from arcface_pl.backbones.base import Backbone
from arcface_pl.backbones.fast_cnn import FastCNN
from arcface_pl.backbones.iresnet import IResNet
from arcface_pl.backbones.mobile_face_net import MobileFaceNet
from arcface_pl.backbones.simple_cnn import SimpleCNN
from arcface_pl.backbones.small_resnet import SmallResNet
from arcface_pl.backbones.timm import TimmBackbone
from arcface_pl.backbones.torchvision import TorchvisionBackbone, WeightsError

__all__ = [
    "BACKBONES",
    "Backbone",
    "FastCNN",
    "IResNet",
    "MobileFaceNet",
    "SimpleCNN",
    "SmallResNet",
    "TimmBackbone",
    "TorchvisionBackbone",
    "WeightsError",
]

BACKBONES: dict[str, type[Backbone]] = {
    cls.__name__: cls
    for cls in (SimpleCNN, FastCNN, SmallResNet, IResNet, MobileFaceNet, TorchvisionBackbone, TimmBackbone)
}
