"""Malicious and broken files, drawn at random by kind, and the process that gives them to the commands."""
