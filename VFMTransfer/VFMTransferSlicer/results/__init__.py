"""What a run gave: nodes in the scene, numbers, places to go to, files."""
