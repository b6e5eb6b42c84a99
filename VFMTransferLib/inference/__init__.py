"""From a case and a bundle to a result: prepared inputs, windows, runtimes, and what this machine can run.

Imports `core` to `bundles`.
"""
