"""A page to try a trained model: draw, see the angle to every class center, enroll new classes."""

from arcface_pl.demo.app import create_app
from arcface_pl.demo.replies import Demo

__all__ = ["Demo", "create_app"]
