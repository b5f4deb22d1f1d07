"""Why a classifier does not learn, and why it will not hold up: data, split, run and model looked at together."""
