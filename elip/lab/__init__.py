"""The lab: reducers set beside each other, with and without training, with honest intervals."""
