"""How a block of each kind of ViT splits in two halves, so that a token reducer can act between them."""
