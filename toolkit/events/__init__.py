"""Camera events on their way out: as JSON records and words, to a file, a webhook, or a command."""
