"""The ground -> count maps."""
