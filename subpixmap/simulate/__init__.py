"""A small country whose truth is known."""
