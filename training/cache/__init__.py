"""Decoded pixels and backbone features on disk, so that they are computed once."""
