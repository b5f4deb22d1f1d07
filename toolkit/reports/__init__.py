"""Tables and notes that several commands print."""
