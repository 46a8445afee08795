"""A map -> numbers."""
