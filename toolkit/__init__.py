"""The command line and what it shows: the only place that prints or exits."""
