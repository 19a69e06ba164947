"""Metrics: images in, numbers out."""
