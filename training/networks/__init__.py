"""The networks that can be trained: one builder function each, and their pretrained weights."""
