"""Checks of a training run: its failures, its fit and the reliability of its results."""
