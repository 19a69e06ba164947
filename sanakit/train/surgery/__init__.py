"""A model made of another one, or of principal components."""
