"""Quantization to int8: recipes, networks, other engines."""
