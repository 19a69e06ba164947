"""Adapters (LoRA): small files that change what a transformer draws. Layers, names, files, pipelines."""
