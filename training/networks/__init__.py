"""The networks, each a small readable function, and the weights of those that are pretrained."""
