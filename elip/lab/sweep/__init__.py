"""Trained comparisons: what to run, what it costs, and running it."""
