"""The contract of objectives, and the process that trains a student."""
