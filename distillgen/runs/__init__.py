"""A run directory: carried out, read, reported and exported."""
