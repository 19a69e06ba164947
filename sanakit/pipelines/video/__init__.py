"""Pipelines of clips."""
