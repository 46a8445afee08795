"""Counts -> how they change over the periods."""
