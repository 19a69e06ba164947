"""The server's storage of jobs, keys and images, and the runner that has jobs drawn."""
