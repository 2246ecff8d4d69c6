"""Numbers, bounds and verdicts: no files, no models, no pytest."""
