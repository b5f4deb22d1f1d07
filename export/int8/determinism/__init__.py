"""Determinism of int8 files: the same results on every CPU, proved from scales and weights."""
