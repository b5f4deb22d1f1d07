"""Looks at a network or its training images without training: preview, activations, fast inference."""
