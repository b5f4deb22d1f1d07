"""Why a training did not learn: histories, gradients and activations of a run."""
