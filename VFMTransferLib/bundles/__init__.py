"""Bundles on disk: metadata, weights, model cards, checks; the catalog; import, ONNX export and fetching.

Imports `core` to `tasks`.
"""
