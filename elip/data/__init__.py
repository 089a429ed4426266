"""Images and annotations: readers, transforms and data sets."""
