"""Words, numbers and pieces of texts, and how values read to a person."""
