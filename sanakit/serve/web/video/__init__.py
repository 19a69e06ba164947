"""The page's tab of clips: its settings, components, drawing, and the functions that tie them."""
