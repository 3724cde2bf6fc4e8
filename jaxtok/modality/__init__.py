"""Kinds of signal: one file each binds the fields of the data, ranges, files, figures and metrics."""
