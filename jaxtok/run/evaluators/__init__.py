"""How stages are measured and drawn: by reconstructions, samples, likelihoods and codes."""
