"""Duplicate detection: candidates by thumbnails, verified by image registration, and the checks on the groups."""
