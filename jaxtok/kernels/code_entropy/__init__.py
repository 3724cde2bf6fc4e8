"""Entropies of soft assignments of tokens to codes."""
