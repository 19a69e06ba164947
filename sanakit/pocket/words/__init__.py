"""Names of pocket's things, and how people ask for them."""
