"""SANA-Streaming: its sizes, its two kinds of attention, the transformer of edited clips."""
