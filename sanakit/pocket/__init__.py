"""The embedded model pocket: its data, training and evaluation."""
