"""Latency and energy of a model, and the comparison of several models."""
