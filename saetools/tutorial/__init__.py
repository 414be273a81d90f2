"""What the notebooks alone need."""
