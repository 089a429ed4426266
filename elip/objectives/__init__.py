"""ALBEF's objectives as functions of tensors: no model, no data, no state."""
