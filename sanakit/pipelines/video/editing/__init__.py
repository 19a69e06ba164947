"""Clips edited by a prompt, chunk after chunk."""
