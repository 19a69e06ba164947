"""What objectives learn from: images, cached latents."""
