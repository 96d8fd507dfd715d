"""The local viewer of runs: an index of the rows, the pages, their server, and the comparison of two runs."""
