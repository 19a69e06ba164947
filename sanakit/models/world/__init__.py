"""SANA-WM, a transformer of clips that a camera path steers, and what it needs of cameras."""
