"""`edgeclf doctor`: which of the injected faults are found."""
