"""The data set of camera paths: made rooms with furniture, rendered on the CPU with exact poses."""
