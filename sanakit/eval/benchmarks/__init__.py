"""Published benchmarks: what they ask for, and how answers are counted."""
