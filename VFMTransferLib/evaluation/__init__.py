"""Two results compared, and a result measured against a reference.

Imports `core`, `metrics` and `tasks`.
"""
