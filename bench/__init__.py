"""Measurements, each a command of its own that prints the numbers it found."""
