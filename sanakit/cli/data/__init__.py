"""The group `sana data`."""
