"""Image sets of the commands: the images that a model is evaluated on, and the photographs of the demo."""
