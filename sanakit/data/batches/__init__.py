"""From images to batches: size buckets, order, samples, worker processes."""
