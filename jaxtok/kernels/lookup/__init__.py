"""Code vectors of codes, summed over slots."""
