"""Lightning callbacks: what a run does to a Trainer (`run`), and what TensorBoard shows (`tensorboard`)."""

from arcface_pl.callbacks.run.arithmetic import Arithmetic
from arcface_pl.callbacks.run.averaging import ExponentialMovingAverage
from arcface_pl.callbacks.run.calibration import ThresholdCalibration
from arcface_pl.callbacks.run.checkpoint import RunCheckpoint
from arcface_pl.callbacks.run.checkpoint_io import DurableCheckpoints
from arcface_pl.callbacks.run.compile import CompileTraining
from arcface_pl.callbacks.run.exact_resume import ExactResume
from arcface_pl.callbacks.run.health import HealthCheck
from arcface_pl.callbacks.run.logger import RunLogger
from arcface_pl.callbacks.run.nonfinite import NonFiniteGuard
from arcface_pl.callbacks.run.processes import EndTogether
from arcface_pl.callbacks.run.progress import EpochLines, RunProgressBar
from arcface_pl.callbacks.run.sharding import HeadSharding
from arcface_pl.callbacks.run.step_seeds import StepSeeds
from arcface_pl.callbacks.run.training_accuracy import TrainingAccuracy
from arcface_pl.callbacks.tensorboard.angle_histograms import AngleHistograms
from arcface_pl.callbacks.tensorboard.confusion_matrix import ConfusionMatrix
from arcface_pl.callbacks.tensorboard.evaluation_figures import EvaluationFigures
from arcface_pl.callbacks.tensorboard.hparams import HyperParameters
from arcface_pl.callbacks.tensorboard.overview import Overview
from arcface_pl.callbacks.tensorboard.projector import EmbeddingProjector

__all__ = [
    "AngleHistograms",
    "Arithmetic",
    "CompileTraining",
    "ConfusionMatrix",
    "DurableCheckpoints",
    "EmbeddingProjector",
    "EndTogether",
    "EpochLines",
    "EvaluationFigures",
    "ExactResume",
    "ExponentialMovingAverage",
    "HeadSharding",
    "HealthCheck",
    "HyperParameters",
    "NonFiniteGuard",
    "Overview",
    "RunCheckpoint",
    "RunLogger",
    "RunProgressBar",
    "StepSeeds",
    "ThresholdCalibration",
    "TrainingAccuracy",
]
