"""Many images on all CPUs, results in order, in bounded memory."""
