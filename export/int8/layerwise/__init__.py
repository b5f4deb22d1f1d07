"""Layer-by-layer quantization: each layer is fitted to the real outputs of the quantized layers before it."""
