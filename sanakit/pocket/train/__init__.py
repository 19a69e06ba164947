"""From pocket's data set to training runs, and from their checkpoints to models."""
