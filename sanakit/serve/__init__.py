"""Serve models to many users: the engine, its API, jobs, keys, and a web page."""
