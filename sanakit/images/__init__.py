"""Images as files and in memory: sizes, pixels and tensors, opening, masks, sheets."""
