"""Terms of losses that are networks of their own."""
