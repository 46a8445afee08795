"""What the counts say over the periods."""
