"""Measurements of edgeclf, one command each: see README.md."""
