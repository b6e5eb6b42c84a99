"""Building blocks of networks: blocks and losses, convolutions that are fast on processors, heads that give images.

Imports torch, and nothing of this library: a block knows tensors only.
"""
