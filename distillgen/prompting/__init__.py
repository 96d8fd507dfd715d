"""Prompts: templates filled by records, and the form in which an answer is read."""
