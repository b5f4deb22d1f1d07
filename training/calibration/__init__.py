"""Probability calibration: the temperature, the rejection threshold, and a report of both."""
