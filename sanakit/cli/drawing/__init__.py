"""Commands that draw images: from words, from images, and from files of prompts."""
