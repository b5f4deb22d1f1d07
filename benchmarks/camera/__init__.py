"""Cameras: age of frames, broken streams, cost of the web preview."""
