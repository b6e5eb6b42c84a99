"""ProFound: a 3D ConvNeXt V2, pretrained as a masked autoencoder."""
