"""Stages, one file a kind; a file that starts with an underscore is shared by several."""
