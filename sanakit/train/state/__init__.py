"""The state of a run between two steps, and its files."""
