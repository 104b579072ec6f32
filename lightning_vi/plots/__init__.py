"""Functions that return a matplotlib figure."""
