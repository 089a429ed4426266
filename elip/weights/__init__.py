"""Files of weights: reading them without running or believing anything, undoing wrappings, fitting them to a model."""
