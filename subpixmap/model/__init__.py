"""Count maps -> a checkpoint -> predictions."""
