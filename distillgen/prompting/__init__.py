"""Prompts, and the forms in which answers are parsed."""
