"""Quantization-aware training: the arithmetic of the int8 file inside the Keras network."""
