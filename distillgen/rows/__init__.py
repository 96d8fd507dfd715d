"""Rows as files: how they are read, shaped and written."""
