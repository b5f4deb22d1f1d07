"""The run folder: what a training writes, and what later commands read."""
