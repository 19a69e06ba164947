"""The files of clips, format by format: how each is written, and read frame by frame."""
