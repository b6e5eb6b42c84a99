"""Many cases through networks: what is left to do, resuming, a summary, workers of a cluster.

Imports `core` to `report`.
"""
