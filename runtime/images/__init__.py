"""An image file becomes the model's input: header, decoding, orientation, resizing. Knows no ONNX Runtime."""
