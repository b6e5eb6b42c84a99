"""Two results compared, and a result scored against a reference.

Imports `core` to `inference`.
"""
