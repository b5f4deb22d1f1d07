"""Labelled images become batches: data sets, splits, loading, augmentation."""
