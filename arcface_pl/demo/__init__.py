"""A page to try a trained model, and an HTTP service for programs."""

from arcface_pl.demo.app import create_app
from arcface_pl.demo.replies import Demo
from arcface_pl.demo.service import Limits, create_service

__all__ = ["Demo", "Limits", "create_app", "create_service"]
