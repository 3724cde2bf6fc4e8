"""Thresholded bits, packed, with their statistics."""
