"""A synthetic ADC from T2w."""
