"""The web preview of `edgeclf infer --camera`: a page, JSON, events and metrics of the cameras.

The classifying threads call `state.py`, which takes microseconds and never waits; encoding images, writing JSON and
talking to browsers happens in the server's own thread, and only for requests.
"""
