"""The labelled images that a command works on, wherever they come from."""
