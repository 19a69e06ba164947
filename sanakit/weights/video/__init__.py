"""Weights of models of clips: their files into modules and back."""
