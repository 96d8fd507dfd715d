"""A pipeline file: read, checked, overridden, described."""
