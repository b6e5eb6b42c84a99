"""What a task is, and one folder for each: sequences, truth, decoding, scores, naive baseline, what is shown.

Imports `core` to `encoders`.
"""
