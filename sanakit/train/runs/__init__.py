"""From data to runs, and from their checkpoints to models."""
