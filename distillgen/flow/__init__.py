"""The contract of stages and filters: records in, records out, in source order and within bounds."""
