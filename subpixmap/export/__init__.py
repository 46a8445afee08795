"""Exports counts and maps to files for other programs."""
