"""Models that others made, as models that follow edgeclf's contract: `adopt_model` and the passes over the graph it is made of."""
