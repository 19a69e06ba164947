"""What a run is between two steps, and its files."""
