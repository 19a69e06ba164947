"""Latents and text features of images: the folder, made, read."""
