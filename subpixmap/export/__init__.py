"""Counts and maps in formats that other tools open."""
