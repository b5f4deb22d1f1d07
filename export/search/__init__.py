"""Quantization recipes tried one after the other until one passes the gate."""
