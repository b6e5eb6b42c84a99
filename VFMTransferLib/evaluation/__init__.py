"""Two results compared, and a result measured against a reference.

Imports `core`, `metrics`, `radiology`, `tasks` and `inference`.
"""
