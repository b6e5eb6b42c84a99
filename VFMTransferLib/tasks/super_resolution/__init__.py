"""T2w with twice its in-plane matrix."""
