"""One module per checkpoint format; those with a suffix are parts of the format before it."""
