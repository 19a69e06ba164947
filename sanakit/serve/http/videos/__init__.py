"""Clips over HTTP, as OpenAI's clients ask for videos."""
