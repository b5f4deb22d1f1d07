"""Inspection without training: previews of augmentation and learning rate, activations, fast inference of a run."""
