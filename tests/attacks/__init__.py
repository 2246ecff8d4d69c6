"""Checkpoints that are hostile or broken: each is a `LoadError`, soon, and in little memory."""
