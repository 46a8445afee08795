"""Models: checkpoints, networks and predictions."""
