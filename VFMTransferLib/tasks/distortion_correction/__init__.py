"""Diffusion images without the displacement of echo-planar readout, with T2w as guide."""
