"""A Keras network or an ONNX file becomes the float graph that keeps the model file's contract."""
