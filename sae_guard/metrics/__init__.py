"""What is measured: the table of metrics (`table`, no torch) and the token formulas (`tokens`)."""
