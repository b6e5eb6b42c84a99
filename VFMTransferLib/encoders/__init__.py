"""What an encoder is, and one folder for each family: sizes, inputs, network, heads, checkpoints, pretext tasks.

Imports `core`, `metrics`, `io` and `phantom`.
"""
