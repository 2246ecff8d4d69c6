"""Bytes → tensors and records, of files that may be hostile."""
