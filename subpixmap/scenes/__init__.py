"""The sky -> a clean lazy cube."""
