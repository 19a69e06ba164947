"""The data set of short clips: animated emoji that loop."""
