"""The page /docs: the API for people, with commands to copy; it is complete without a network."""
