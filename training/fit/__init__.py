"""Fitting: options resolved for a network, stages, the training loop, gradient steps, checkpoints, learning-rate sweep."""
