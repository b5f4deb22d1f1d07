"""From a trained Keras network to one verified `.onnx` file."""
