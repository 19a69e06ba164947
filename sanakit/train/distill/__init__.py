"""Teachers of distillation."""
