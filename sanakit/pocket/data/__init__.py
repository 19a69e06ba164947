"""Pocket's data set: where its art comes from, what it is called, and the scenes composed of it."""
