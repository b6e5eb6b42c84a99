"""ProViCNet: a DINOv2 vision transformer over slices, pretrained by patch contrast."""
