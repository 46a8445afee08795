"""High-resolution imagery to points: train a detector, run it, measure it, and have people check what it found."""
