"""From a model of whole clips, or of worlds, to one that streams in few steps: three stages."""
