"""What a radiologist measures in a case: gland, sectors, lesions, image quality. Imports `core`, `io`, `metrics`.

`gland` has the frame of the prostate, its diameters and PSA density; `sectors` the PI-RADS v2.1 map, `sector_map` its
drawing; `lesions` what is measured of each lesion; `quality` the criteria of the images; `diffusion_fit` the ADC of a
series. Where PI-RADS draws but does not define, the rule is ours, and says so.
"""
