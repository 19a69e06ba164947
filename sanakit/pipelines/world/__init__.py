"""Worlds to walk through: camera paths from keys and from files."""
