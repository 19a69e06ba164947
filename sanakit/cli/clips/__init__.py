"""Commands that draw, edit and walk through clips."""
