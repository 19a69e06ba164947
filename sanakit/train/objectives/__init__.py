"""What is trained, on what, by which loss: one objective a file."""
