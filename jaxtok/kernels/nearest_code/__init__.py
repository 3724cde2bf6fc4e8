"""Index of the nearest code of a codebook."""
