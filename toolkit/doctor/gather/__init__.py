"""Gathers the facts about data and runs that the checks judge."""
