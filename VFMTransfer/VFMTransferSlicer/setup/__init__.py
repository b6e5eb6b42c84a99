"""The computer's networks and runtimes: what is there, and what is missing."""
