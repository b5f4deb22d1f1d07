"""Comparison of two classifiers on the same images: what the one gains and loses against the other, and on which images."""
