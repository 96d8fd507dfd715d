"""Prompts: what a model is sent for a record, and the form in which its answer is parsed."""
