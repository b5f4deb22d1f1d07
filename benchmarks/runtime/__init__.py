"""Inference: start-up, one frame, a folder of photographs."""
