"""The web preview of `edgeclf infer --camera`: a page, JSON, events and metrics of what the cameras show.

What the classifying thread calls (`feeds.py`) costs microseconds and never waits; everything else - encoding pictures,
writing JSON, talking to browsers - happens in the server's own thread, and only while somebody asks.
"""
