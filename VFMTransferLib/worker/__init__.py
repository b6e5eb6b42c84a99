"""The warm child process: messages, server, jobs, and the client that starts it.

Imports `core` to `batch`.
"""
