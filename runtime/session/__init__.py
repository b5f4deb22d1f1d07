"""The only code that touches ONNX Runtime: opening a model file, choosing a device, running batches."""
