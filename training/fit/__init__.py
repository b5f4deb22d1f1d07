"""The training loop: gradient steps, schedules, early stopping, checkpoints, learning-rate finder."""
