"""Static int8 quantization whose results are the same on every CPU: weights, ranges, corrections and the QDQ graph."""
