"""Cameras and videos as they play: capture, newest frame, smoothing, model reload."""
