"""The guard of a model in production: a share of the hybrid calls runs through the dense model too, aside."""
