"""Clips and the files that hold them."""
