"""Sources of training samples: images, cached latents."""
