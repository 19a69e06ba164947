"""Processes that train one model, and arithmetic on shards."""
