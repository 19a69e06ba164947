"""Models for many at once: the engine, the API around it, jobs, keys, and a page to draw on."""
