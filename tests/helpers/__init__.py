"""What tests of several rooms share: definitions, models, files, records."""
