"""The doctor's checks: pure functions from facts to findings."""
