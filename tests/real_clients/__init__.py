"""The parts of `clients.py`: what each client does, what is validated, and the report."""
