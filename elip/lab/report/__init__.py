"""What trained runs came to: results, intervals, pictures."""
