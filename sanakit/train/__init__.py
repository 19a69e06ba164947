"""Training: one visible loop, and one file per objective."""
