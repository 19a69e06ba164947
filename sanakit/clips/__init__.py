"""Moving images as files and in memory: frame counts and rates, reading and writing, settings in files.

MP4, MOV, WebM and Matroska need the extra `video` (PyAV). Pillow alone reads and writes animated WebP, GIF
and folders of frames, and reads APNG.
"""
