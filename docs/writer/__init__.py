"""The parts of `docs/write.py`: one module for each kind of page."""
