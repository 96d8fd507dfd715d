"""At most so many words."""

CASES = [
    ({"field": "x", "max_words": 3}, {"x": "one two"}, None),
    ({"field": "x", "max_words": 3}, {"x": "one two\nthree"}, None),
    ({"field": "x", "max_words": 3}, {"x": "one two three four"}, "4 words > 3"),
    ({"field": "x", "max_words": 1}, {"x": None}, None),
]
