"""PI-RADS class of a case, from T2w, high-b DWI and ADC."""
