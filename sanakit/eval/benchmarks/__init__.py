"""Published benchmarks: their prompts and their scoring."""
