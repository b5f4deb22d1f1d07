"""From a folder of labelled images to a trained Keras network, and what is known about it."""
