"""Searching hyper-parameters: spaces, studies that many processes share, and what came out."""
