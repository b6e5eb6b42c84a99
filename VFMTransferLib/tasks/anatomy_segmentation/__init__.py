"""Prostate, peripheral and transition zone on T2w."""
