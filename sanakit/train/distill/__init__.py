"""Teachers, and what a student learns from them."""
