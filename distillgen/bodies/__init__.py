"""Bodies: each file holds one kind of network below the heads of a student, found by its name."""
