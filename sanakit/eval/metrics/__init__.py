"""One metric a file: images in, number out."""
