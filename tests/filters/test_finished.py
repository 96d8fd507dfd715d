"""Texts that break off."""

CASES = [
    ({"fields": ["x", "y"]}, {"x": "Is it?", "y": "It is.\u201d"}, None),
    ({"fields": ["x", "y"]}, {"x": "Is it?", "y": "It is the"}, "1 of 2 fields break off"),
    ({"fields": ["x"]}, {"x": "cut 男孩,"}, "1 of 1 fields break off"),
    ({"fields": ["x"]}, {"x": "Yes. \n"}, None),
]
