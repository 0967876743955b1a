"""Triton kernels and their launches, one file per op.  Imported only when a Triton backend runs."""
