"""Comparison on the same images: of two classifiers, what the one gains and loses against the other; of a file, on other cores."""
