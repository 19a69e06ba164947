"""Captions and their scores: the models that write them, and the job that runs the models."""
