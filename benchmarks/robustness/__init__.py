"""Robustness: damaged pictures, tables and folders as people have them, kills in the middle, two of everything at once."""
