"""Keras models that others made - `.keras`, `.h5`, SavedModel, Python objects - opened without running code of theirs."""
