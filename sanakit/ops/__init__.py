"""Tensor functions without parameters, shared by the models."""
