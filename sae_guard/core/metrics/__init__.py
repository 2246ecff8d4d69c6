"""What is measured: the table of metrics (`metric`, `table`: no torch), the formulas (`tokens`)."""
