"""Length in words."""

CASES = [
    ({"field": "x", "min_words": 2, "max_words": 3}, {"x": "one two three"}, None),
    ({"field": "x", "min_words": 2, "max_words": 3}, {"x": "one two three four"}, "4 words > 3"),
    ({"field": "x", "min_words": 2}, {"x": "one"}, "1 words < 2"),
]
