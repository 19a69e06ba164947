"""Networks that judge images: features, detection, answers; each a function of images."""
