"""The page to draw on: `mount` puts it on an application."""
