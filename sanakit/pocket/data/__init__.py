"""What pocket learns from: pictures, words, and how both are varied."""
