"""Safe reading of pickled files that may be hostile: bytes → tensors and inert objects."""
