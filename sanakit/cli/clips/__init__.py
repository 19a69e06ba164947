"""Commands that make moving images."""
