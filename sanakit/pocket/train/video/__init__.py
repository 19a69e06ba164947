"""Runs of pocket-video: its autoencoder of clips, and the transformer that draws them."""
