"""SANA-Video: transformers of clips, and the autoencoders that their latents come from."""
