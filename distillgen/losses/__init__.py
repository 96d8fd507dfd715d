"""Losses, and the weights that multiply them: each file holds one, found by its name."""
