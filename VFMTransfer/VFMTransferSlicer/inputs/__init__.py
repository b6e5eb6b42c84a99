"""What a run is given: which volumes are a study, how they lie, masks, and phantoms."""
