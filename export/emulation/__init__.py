"""Runs a model file on ONNX Runtime's arm64 kernels under user-mode emulation."""
