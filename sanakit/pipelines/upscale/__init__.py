"""Enlarging images: by Lanczos, and by a model that draws detail into that."""
