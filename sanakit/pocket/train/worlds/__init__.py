"""Runs of pocket-world: its autoencoder of renderings, and the transformer that follows camera paths."""
