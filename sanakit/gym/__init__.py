"""Worlds as environments of Gymnasium, thin over `pipelines/world`; needs the extra `gym`."""
