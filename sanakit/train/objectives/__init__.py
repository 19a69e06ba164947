"""Training objectives: data, model and loss; one objective per file."""
