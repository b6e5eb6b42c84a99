"""What a run gave: nodes in the scene, numbers, places to look at, files."""
