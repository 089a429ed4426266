"""How time and memory of a training step grow with the sizes of a config, and what fits on a card."""
