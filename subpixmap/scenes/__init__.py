"""The sky -> a clean lazy cube: search, lock, decide the offset, read, mask."""
