"""The commands that serve: `sana serve`, `sana ui`, `sana keys`."""
