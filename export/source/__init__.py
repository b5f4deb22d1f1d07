"""What is exported: a trained network or a model that others made, and the images that verify its file."""
