"""Bytes of files as tensors, whole or mapped."""
