"""What happens around training: where a run writes, which checkpoints it keeps, what TensorBoard shows."""

from arcface_pl.callbacks.angles import AngleHistograms
from arcface_pl.callbacks.averaging import ExponentialMovingAverage
from arcface_pl.callbacks.calibration import ThresholdCalibration
from arcface_pl.callbacks.checkpoint import RunCheckpoint
from arcface_pl.callbacks.confusion import ConfusionMatrix
from arcface_pl.callbacks.evaluation import EvaluationFigures
from arcface_pl.callbacks.health import HealthCheck
from arcface_pl.callbacks.hyperparameters import HyperParameters
from arcface_pl.callbacks.logger import RunLogger
from arcface_pl.callbacks.processes import EndTogether
from arcface_pl.callbacks.progress import RunProgressBar
from arcface_pl.callbacks.projector import EmbeddingProjector

__all__ = [
    "AngleHistograms",
    "ConfusionMatrix",
    "EmbeddingProjector",
    "EndTogether",
    "EvaluationFigures",
    "ExponentialMovingAverage",
    "HealthCheck",
    "HyperParameters",
    "RunCheckpoint",
    "RunLogger",
    "RunProgressBar",
    "ThresholdCalibration",
]
