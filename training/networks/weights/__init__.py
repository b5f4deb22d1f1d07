"""Weights that begin a training: of layers, out of Keras, PyTorch and model files, for networks with the same layers."""
