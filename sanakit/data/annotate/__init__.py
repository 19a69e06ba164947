"""Captions and their scores: who writes them, and the job that has them written."""
