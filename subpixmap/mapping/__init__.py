"""A model over a region and periods."""
