"""Pure computations over numbers, vectors and sets: no model, no file."""
