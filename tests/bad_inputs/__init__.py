"""Bad inputs, made from a seed, tried on the program: see `run.py`."""
