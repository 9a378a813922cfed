"""Ways in: a transformers folder, an archive of torch.export, or a module of the user's, each to a `Program`."""
