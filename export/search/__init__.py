"""The search for an int8 recipe: candidates, trials and their cache, sensitive layers back in float."""
