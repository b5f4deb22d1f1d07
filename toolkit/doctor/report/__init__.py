"""Rendering of an examination: in the terminal and as an HTML page."""
