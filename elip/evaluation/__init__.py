"""Evaluations and metrics that more than one task uses."""
