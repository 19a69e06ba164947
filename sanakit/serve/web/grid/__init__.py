"""Grids of images along two settings: values as they are typed, the drawing, and the sheet with labels."""
