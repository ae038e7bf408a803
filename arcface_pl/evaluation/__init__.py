"""Evaluation of a trained model on trained and unseen classes, thresholds, protocols."""
