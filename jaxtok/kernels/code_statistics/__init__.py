"""How many tokens each code has, and the sum of their features."""
