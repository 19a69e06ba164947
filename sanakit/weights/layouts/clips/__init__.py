"""Layouts of the transformers of clips that keep the official names: SANA-Video 2.0, SANA-Streaming."""
