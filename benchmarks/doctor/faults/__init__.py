"""Faults that the battery injects into clean data, by kind."""
