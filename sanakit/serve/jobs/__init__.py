"""What the server keeps: jobs, keys, images; and the runner that has jobs drawn."""
