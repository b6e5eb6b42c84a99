"""The transfer study: its configuration, runs, sweep, tables and summary.

Imports `core` to `training`.
"""
