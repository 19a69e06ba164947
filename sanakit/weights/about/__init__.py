"""Descriptions of models: the content of a place, a model's offer, the parts that a pipeline has loaded."""
