"""Final answers: found in a text, compared as numbers, expressions, quantities and programs."""
