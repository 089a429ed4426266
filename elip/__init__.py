"""Efficient language-image pre-training: token reducers, encoders, objectives, training engine, cost accounting."""

__version__ = "0.1.0"
