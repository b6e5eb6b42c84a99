"""Clinically significant cancer on T2w, high-b DWI and ADC."""
