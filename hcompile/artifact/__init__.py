"""The compiled model as a folder `model.hcm`: data only, checked before use, written whole or not at all."""
