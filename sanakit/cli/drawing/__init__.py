"""Commands that draw: images from words, from images, from files of prompts, and clips."""
