"""What happens around training: where a run writes, which checkpoints it keeps, what TensorBoard shows."""

from arcface_pl.callbacks.run.averaging import ExponentialMovingAverage
from arcface_pl.callbacks.run.calibration import ThresholdCalibration
from arcface_pl.callbacks.run.checkpoint import RunCheckpoint
from arcface_pl.callbacks.run.health import HealthCheck
from arcface_pl.callbacks.run.logger import RunLogger
from arcface_pl.callbacks.run.processes import EndTogether
from arcface_pl.callbacks.run.progress import RunProgressBar
from arcface_pl.callbacks.tensorboard.angle_histograms import AngleHistograms
from arcface_pl.callbacks.tensorboard.confusion_matrix import ConfusionMatrix
from arcface_pl.callbacks.tensorboard.evaluation_figures import EvaluationFigures
from arcface_pl.callbacks.tensorboard.hparams import HyperParameters
from arcface_pl.callbacks.tensorboard.projector import EmbeddingProjector

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
