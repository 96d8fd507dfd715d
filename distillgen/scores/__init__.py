"""Scores: numbers by which a search ranks students that nobody has trained; each file holds one."""
