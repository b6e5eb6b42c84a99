"""Run prostate MRI foundation-model networks and compare the pretrained with the from-scratch arm."""
