"""One clip on several processes: what they exchange, the transformer, and the decoder."""
