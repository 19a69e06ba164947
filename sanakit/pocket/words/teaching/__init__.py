"""Lessons for the text encoder before it sees images, and its teachers."""
