"""Light models: ONNX models in memory whose large weights are in a file, so that passes copy names and shapes, not gigabytes.

Protobuf's memory is given back with a whole message, never with a part of it: a pass that lists a model's weights anew doubles
what the model takes, and `ByteSize` and `SerializeToString` take twice the model.
"""
