"""Reference data: from labels to count maps."""
