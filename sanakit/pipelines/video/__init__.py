"""Clips from prompts, images and clips."""
