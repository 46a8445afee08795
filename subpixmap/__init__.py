"""subpixmap."""
