"""Blinded reading: which of two networks is better, by a reader who does not know which is which."""
