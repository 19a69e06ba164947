"""Models of moving images: SANA-Video's transformer and the autoencoders of clips."""
