"""Optimisers, and which parameters each of them takes."""
