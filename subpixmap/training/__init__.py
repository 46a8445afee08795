"""From reference data, or from the simulator, to a checkpoint."""
