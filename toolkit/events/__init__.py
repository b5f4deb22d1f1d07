"""Camera events: the event log, and the webhooks and commands that receive events."""
