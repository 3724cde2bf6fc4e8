"""All depths of a residual quantizer in one pass."""
