"""How true an encoder stays to itself under reducers, without training."""
