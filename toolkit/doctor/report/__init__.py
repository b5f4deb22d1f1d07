"""The doctor's findings in the terminal and as an HTML page."""
