"""Checks of a model file on photographs: whether it is used as it was trained, and whether its answers mean anything."""
