"""How fast it is, and the least time that the work can take."""
