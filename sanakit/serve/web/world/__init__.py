"""The page's tab of worlds: its components, entering one, and the walk itself, which is plain JavaScript."""
