"""Any place as a list of images with captions: files, headers, decoding."""
