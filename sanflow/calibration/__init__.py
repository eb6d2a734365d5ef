"""Score constants and the threshold, from good parts only."""
