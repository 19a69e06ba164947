"""The command `sana evaluate`: models and images in one file, clips in another."""
