"""Measurements, each a ratio of two times of one run, so that machines can be compared: `make bench`."""
