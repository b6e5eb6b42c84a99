"""What a radiologist measures in a case: the gland, its sectors, its lesions. Imports `core` and `metrics`.

`gland` has the frame of the prostate, its diameters and PSA density; `sectors` the PI-RADS v2.1 map; `lesions` what is
measured of each lesion. Where PI-RADS draws and does not define, the definition is ours, and says so.
"""
