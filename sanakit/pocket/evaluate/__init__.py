"""What pocket can draw: recognition of single things, and questions about composed scenes."""
