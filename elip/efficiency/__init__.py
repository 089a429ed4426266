"""What a model costs: multiply-adds by part, parameters, memory kept for the backward pass; and tables of them."""
