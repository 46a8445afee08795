"""High-resolution imagery to points: train a detector, run it, evaluate it, and review detections."""
