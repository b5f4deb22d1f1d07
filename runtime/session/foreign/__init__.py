"""Models that others made: how an ONNX file without an edgeclf spec is to be used, and where each part of that comes from.

The user says what is known in a `ForeignModel`; `resolve_foreign` reads the rest from the file and from what lies beside it.
"""
