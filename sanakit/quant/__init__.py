"""Fewer bits: which layers are quantised, how, and the layers that compute with what is left."""
