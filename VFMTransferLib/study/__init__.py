"""The transfer study: its configuration, runs, sweep, tables, summary and forecast.

Imports `core` to `training`.
"""
