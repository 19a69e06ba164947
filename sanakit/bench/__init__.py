"""Speed measurements, and lower bounds of the time that the work takes."""
