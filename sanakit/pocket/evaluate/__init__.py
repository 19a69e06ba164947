"""Measure what pocket can draw: recognition of single things, and questions about composed scenes."""
