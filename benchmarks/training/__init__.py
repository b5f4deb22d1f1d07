"""Training: accuracy, speed, memory, going on after a kill."""
