"""Training of both arms: cases, samples, augmentation, one loop, pretraining, fine-tuning, recipes.

Imports `core` to `evaluation`.
"""
