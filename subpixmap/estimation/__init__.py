"""From a map and a probability sample of its cells to estimates with intervals."""
