"""Images that occur more than once, in one class or across classes and splits."""
