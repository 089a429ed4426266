"""Encoders, fusion, momentum copies: every parameter that tasks share."""
