"""Finds what is drawn on paper in a picture."""
