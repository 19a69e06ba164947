"""Reinforcement: a model draws, rewards judge its images, and it learns from what they say."""
