"""Task-specific baselines without pretraining: DynUNet for images, a ResNet for classes."""
