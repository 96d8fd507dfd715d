"""Words, numbers, templates and pieces of texts, and how values are displayed."""
