"""Pipelines: one task a file, from what the user says to images."""
