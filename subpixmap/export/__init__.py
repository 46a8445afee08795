"""Counts and maps -> files for other programs."""
